// Asks a question and prints the answer as it comes: go run . [HOST:PORT [QUESTION]]
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "tandem-example/tandempb"
)

func main() {
	address, question := "127.0.0.1:50051", "What is prefill?"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if len(os.Args) > 2 {
		question = os.Args[2]
	}
	if err := ask(address, question); err != nil {
		explain(err)
		os.Exit(1)
	}
}

func ask(address, question string) error {
	// As every 1.x has it; the newest also have grpc.NewClient and credentials/insecure. TLS: grpc.WithTransportCredentials.
	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer connection.Close()
	// Whatever ends the context ends the work on every worker.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("TANDEM_API_KEY"))

	stream, err := pb.NewInferenceClient(connection).Generate(ctx, &pb.GenerateRequest{
		Prompt: &pb.GenerateRequest_Chat{Chat: &pb.Chat{
			Messages: []*pb.ChatMessage{{Role: "user", Content: question}},
		}},
		// What is optional is a pointer: nil is the model's own default, and 0 is 0.
		Sampling: &pb.Sampling{Temperature: proto.Float32(0)},
		Stopping: &pb.Stopping{MaxTokens: proto.Int32(60)},
	})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch event := response.Event.(type) {
		case *pb.GenerateResponse_Delta:
			fmt.Print(event.Delta.Text)
		case *pb.GenerateResponse_Finished:
			fmt.Printf("\n%d tokens\n", event.Finished.Usage.CompletionTokens)
		}
	}
}

// The status says what kind of error it is; its details say why, and when to try again.
func explain(err error) {
	said := status.Convert(err)
	fmt.Fprintf(os.Stderr, "%s: %s\n", said.Code(), said.Message())
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Fprintf(os.Stderr, "reason %s %v\n", detail.Reason, detail.Metadata)
		case *errdetails.RetryInfo:
			fmt.Fprintf(os.Stderr, "again in %s\n", detail.RetryDelay.AsDuration())
		}
	}
}
