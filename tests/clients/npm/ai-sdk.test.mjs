// The AI SDK with @ai-sdk/openai: over chat completions and over responses.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { embedMany, generateText, Output, streamText, tool } from "ai";
import { z } from "zod";
import { ANSWER, HTTP, MODEL, QUESTION } from "./served.mjs";

const openai = createOpenAI({ baseURL: `${HTTP}/v1`, apiKey: "none" });
const Place = z.object({ kind: z.enum(["city", "river"]), size: z.number().int().min(0).max(9) });

for (const [name, model] of [
  ["chat", openai.chat(MODEL)],
  ["responses", openai.responses(MODEL)],
]) {
  test(`a text over ${name}`, async () => {
    const answer = await generateText({ model, prompt: QUESTION, temperature: 0, maxRetries: 0 });
    assert.equal(answer.text, ANSWER);
    assert.equal(answer.finishReason, "stop");
    assert.ok(answer.usage.outputTokens > 10);
  });

  test(`a stream over ${name}`, async () => {
    const result = streamText({ model, prompt: QUESTION, temperature: 0, maxRetries: 0 });
    let text = "";
    let parts = 0;
    for await (const part of result.textStream) {
      text += part;
      parts += 1;
    }
    assert.equal(text, ANSWER);
    assert.ok(parts > 5);
  });

  test(`an object over ${name}`, async () => {
    const output = Output.object({ schema: Place });
    const answer = await generateText({ model, prompt: QUESTION, output, temperature: 0, maxRetries: 0 });
    assert.ok(Place.safeParse(answer.output).success);
  });

  test(`a tool over ${name}`, async () => {
    const calls = [];
    const weather = tool({
      description: "Now.",
      inputSchema: z.object({ unit: z.enum(["C", "F"]) }),
      execute: async ({ unit }) => {
        calls.push(unit);
        return "sunny";
      },
    });
    const toolChoice = { type: "tool", toolName: "weather" };
    const answer = await generateText({ model, prompt: QUESTION, tools: { weather }, toolChoice, maxRetries: 0 });
    assert.equal(answer.toolCalls[0].toolName, "weather");
    assert.deepEqual(calls, [answer.toolCalls[0].input.unit]);
  });
}

test("embeddings", async () => {
  const { embeddings } = await embedMany({ model: openai.embedding(MODEL), values: ["a cat", "a dog"], maxRetries: 0 });
  assert.equal(embeddings.length, 2);
});

test("an error", async () => {
  await assert.rejects(generateText({ model: openai.chat("gpt"), prompt: QUESTION, maxRetries: 0 }), (error) => {
    return error.statusCode === 404;
  });
});
