// The Anthropic SDK on /v1/messages. Its base URL has no /v1: the SDK adds that itself.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { gateway, raised, run, weather } from "./lib/features.mjs";

const model = gateway.model;
const client = new Anthropic({ baseURL: gateway.url, apiKey: gateway.key });
const user = (content) => ({ role: "user", content });
const textOf = (message) => message.content.map((block) => block.text ?? "").join("");

async function chat() {
  const message = await client.messages.create({
    model,
    max_tokens: 60,
    temperature: 0,
    system: "Be short.",
    messages: [user("What is a llama?")],
  });
  assert(textOf(message) && ["end_turn", "max_tokens"].includes(message.stop_reason), message);
  assert(message.usage.input_tokens > 0 && message.usage.output_tokens > 0, message.usage);
  assert(message._request_id);
  return textOf(message);
}

async function stream() {
  const pieces = [];
  const final = await client.messages
    .stream({ model, max_tokens: 40, temperature: 0, messages: [user("Count to five.")] })
    .on("text", (piece) => pieces.push(piece))
    .finalMessage();
  assert(pieces.length > 1, "it did not come in pieces");
  assert.equal(pieces.join(""), textOf(final));
  assert(["end_turn", "max_tokens"].includes(final.stop_reason), final.stop_reason);
  assert(final.usage.input_tokens > 0 && final.usage.output_tokens > 0, final.usage);
  return textOf(final);
}

async function tools() {
  const whole = (body) => client.messages.create(body);
  const streamed = (body) => client.messages.stream(body).finalMessage();
  return [await toolLoop(whole), await toolLoop(streamed)];
}

async function toolLoop(ask) {
  const input_schema = z.toJSONSchema(z.object({ city: z.enum(["Paris", "Oslo"]) }));
  const offered = [{ name: "weather", description: "The weather in a city", input_schema }];
  const messages = [user("How is the weather in Paris?")];
  const first = await ask({
    model,
    messages,
    max_tokens: 100,
    temperature: 0,
    tools: offered,
    tool_choice: { type: "tool", name: "weather" },
  });
  const call = first.content.find((block) => block.type === "tool_use");
  assert.equal(call.name, "weather");
  assert.equal(first.stop_reason, "tool_use");
  const content = weather(call.input.city);
  const results = [{ type: "tool_result", tool_use_id: call.id, content }];
  messages.push({ role: "assistant", content: first.content }, user(results));
  const second = await ask({
    model,
    messages,
    max_tokens: 40,
    temperature: 0,
    tools: offered,
    tool_choice: { type: "none" },
  });
  assert(textOf(second), second);
  return [call.input, textOf(second)];
}

async function structured() {
  const Person = z.object({ name: z.string(), age: z.int() });
  const message = await client.messages.parse({
    model,
    max_tokens: 200,
    temperature: 0,
    messages: [user("Anna is 31 years old. Who is she?")],
    output_config: { format: zodOutputFormat(Person) },
  });
  const parsed = message.parsed_output;
  assert(typeof parsed.name === "string" && Number.isInteger(parsed.age), parsed);
  return parsed;
}

async function error() {
  const body = { model, max_tokens: 40, messages: [user("Hello")] };
  const stranger = new Anthropic({ baseURL: gateway.url, apiKey: "sk-wrong" });
  const wrongKey = await raised(Anthropic.AuthenticationError, () =>
    stranger.messages.create(body),
  );
  assert.equal(wrongKey.type, "authentication_error");
  const tooHot = await raised(Anthropic.BadRequestError, () =>
    client.messages.create({ ...body, temperature: 9 }),
  );
  assert.equal(tooHot.type, "invalid_request_error");
  assert(tooHot.requestID);
  return [wrongKey.apiMessage, tooHot.apiMessage];
}

async function truncated() {
  const body = { model, max_tokens: 5, temperature: 0, messages: [user("Tell me a long story.")] };
  const whole = await client.messages.create(body);
  const streamed = await client.messages.stream(body).finalMessage();
  const ends = [whole.stop_reason, streamed.stop_reason];
  assert.deepEqual(ends, ["max_tokens", "max_tokens"]);
  return ends;
}

async function broken(prompt) {
  const body = { model, max_tokens: 1000, messages: [user(prompt)] };
  const raw = async (said) => {
    for await (const event of await client.messages.create({ ...body, stream: true }))
      if (event.type === "content_block_delta") said.push(event.delta.text);
  };
  const helper = (said) =>
    client.messages
      .stream(body)
      .on("text", (piece) => said.push(piece))
      .finalMessage();
  const seen = [];
  for (const read of [raw, helper]) {
    const said = [];
    const failure = await raised(Anthropic.APIError, () => read(said));
    assert(said.join("") && failure.type, failure);
    seen.push(`${failure.type} after ${JSON.stringify(said.join(""))}`);
  }
  return seen;
}

await run({ chat, stream, tools, structured, error, truncated, broken });
