// protos/generate.proto in a language that has no package of ours: the definition is all that is needed.

import assert from "node:assert/strict";
import { test } from "node:test";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { ANSWER, GRPC, PROTO, QUESTION } from "./served.mjs";

const definition = loadSync(PROTO, { keepCase: true, longs: String, enums: String, oneofs: true });
const { Inference } = grpc.loadPackageDefinition(definition).tandem.v1;
const stub = new Inference(GRPC, grpc.credentials.createInsecure());
const request = { chat: { messages: [{ role: "user", content: QUESTION }] }, sampling: { temperature: 0 } };

test("an answer", async () => {
  const kinds = [];
  let text = "";
  for await (const { event, delta } of stub.Generate(request)) {
    kinds.push(event);
    text += delta?.text ?? "";
  }
  assert.equal(text, ANSWER);
  assert.equal(kinds[0], "started");
  assert.equal(kinds.at(-1), "finished");
});

test("a deadline", async () => {
  const endless = { text: "Once", stopping: { max_tokens: 2000, ignore_eos: true } };
  await assert.rejects(
    async () => {
      for await (const _ of stub.Generate(endless, { deadline: Date.now() + 300 }));
    },
    (error) => error.code === grpc.status.DEADLINE_EXCEEDED,
  );
});

test("an error says which field", async () => {
  await assert.rejects(
    async () => {
      for await (const _ of stub.Generate({ ...request, sampling: { temperature: 9 } }));
    },
    (error) => error.code === grpc.status.INVALID_ARGUMENT && /temperature/.test(error.details),
  );
});
