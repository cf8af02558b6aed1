// The Vercel AI SDK: its provider for any compatible server, on /v1/chat/completions, and its
// OpenAI provider, on /v1/responses.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { gateway, raised, run, weather } from "./lib/features.mjs";

const baseURL = `${gateway.url}/v1`;

function models(apiKey = gateway.key) {
  const compatible = createOpenAICompatible({
    name: "llama-gateway",
    baseURL,
    apiKey,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  const openai = createOpenAI({ baseURL, apiKey });
  return { chat: compatible(gateway.model), responses: openai.responses(gateway.model) };
}

/** What *feature* sees with each of the two models, by route. */
async function each(feature) {
  const seen = {};
  for (const [route, model] of Object.entries(models())) seen[route] = await feature(model, route);
  return seen;
}

function chat() {
  return each(async (model) => {
    const { text, finishReason, usage } = await generateText({
      model,
      system: "Be short.",
      prompt: "What is a llama?",
      maxOutputTokens: 60,
      temperature: 0,
    });
    assert(text && ["stop", "length"].includes(finishReason), finishReason);
    assert(usage.inputTokens > 0 && usage.outputTokens > 0, usage);
    return text;
  });
}

/** Read a stream to its end: its pieces of text, its errors and what it says of its end. */
async function read(options) {
  const pieces = [];
  const errors = [];
  let end;
  for await (const part of streamText({ ...options, onError: () => {} }).fullStream) {
    if (part.type === "text-delta") pieces.push(part.text);
    if (part.type === "error") errors.push(part.error);
    if (part.type === "finish") end = part;
  }
  return { pieces, errors, end };
}

function stream() {
  return each(async (model) => {
    const { pieces, errors, end } = await read({
      model,
      prompt: "Count to five.",
      maxOutputTokens: 40,
      temperature: 0,
    });
    assert.deepEqual(errors, []);
    assert(pieces.length > 1, "it did not come in pieces");
    assert(["stop", "length"].includes(end.finishReason), end);
    assert(end.totalUsage.outputTokens > 0, end);
    return pieces.join("");
  });
}

function tools() {
  const options = {
    prompt: "How is the weather in Paris?",
    maxOutputTokens: 100,
    temperature: 0,
    tools: {
      weather: tool({
        description: "The weather in a city",
        inputSchema: z.object({ city: z.enum(["Paris", "Oslo"]) }),
        execute: ({ city }) => weather(city),
      }),
    },
    toolChoice: { type: "tool", toolName: "weather" },
    // The first step must call the tool, the second one answers.
    prepareStep: ({ stepNumber }) => (stepNumber > 0 ? { toolChoice: "none" } : {}),
    stopWhen: stepCountIs(2),
  };
  return each(async (model) => {
    const whole = await generateText({ ...options, model });
    const streamed = streamText({ ...options, model });
    const loops = [await whole.steps, await streamed.steps];
    for (const [first, second] of loops) {
      assert.equal(first.toolCalls[0].toolName, "weather");
      assert.equal(first.finishReason, "tool-calls");
      assert.match(first.toolResults[0].output, /sunny/);
      assert(second.text, second);
    }
    return loops.map(([first, second]) => [first.toolCalls[0].input, second.text]);
  });
}

function structured() {
  return each(async (model) => {
    const { output } = await generateText({
      model,
      prompt: "Anna is 31 years old. Who is she?",
      maxOutputTokens: 200,
      temperature: 0,
      output: Output.object({ schema: z.object({ name: z.string(), age: z.int() }) }),
    });
    assert(typeof output.name === "string" && Number.isInteger(output.age), output);
    return output;
  });
}

async function error() {
  const strangers = models("sk-wrong");
  return each(async (model, route) => {
    const prompt = "Hello";
    const wrongKey = await raised(
      APICallError,
      () => generateText({ model: strangers[route], prompt }),
      (failure) => failure.statusCode === 401 && !failure.isRetryable,
    );
    const tooHot = await raised(
      APICallError,
      () => generateText({ model, prompt, temperature: 9 }),
      (failure) => failure.statusCode === 400 && !failure.isRetryable,
    );
    return [wrongKey.message, tooHot.message];
  });
}

function truncated() {
  return each(async (model) => {
    const options = { model, prompt: "Tell me a long story.", maxOutputTokens: 5, temperature: 0 };
    const whole = await generateText(options);
    const { end } = await read(options);
    const ends = [whole.finishReason, end.finishReason];
    assert.deepEqual(ends, ["length", "length"]);
    return ends;
  });
}

function broken(prompt) {
  return each(async (model) => {
    const { pieces, errors, end } = await read({ model, prompt });
    assert.equal(errors.length, 1, "there is no error part, or more than one");
    assert(pieces.join(""), "it broke before the first word");
    assert(end === undefined || end.finishReason === "error", end);
    const said = errors[0].message ?? errors[0];
    return `${JSON.stringify(said)} after ${JSON.stringify(pieces.join(""))}`;
  });
}

await run({ chat, stream, tools, structured, error, truncated, broken });
