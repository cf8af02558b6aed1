// The OpenAI SDK on /v1/responses.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { gateway, raised, run, weather } from "./lib/features.mjs";

const model = gateway.model;
const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: gateway.key });
const user = (content) => ({ role: "user", content });

async function chat() {
  const input = [user("What is a llama?")];
  const first = await client.responses.create({
    model,
    instructions: "Be short.",
    input,
    max_output_tokens: 60,
    temperature: 0,
  });
  assert(first.output_text && ["completed", "incomplete"].includes(first.status), first);
  assert(first.usage.input_tokens > 0 && first.usage.output_tokens > 0, first.usage);
  // The gateway keeps no conversations: what was said goes along.
  input.push(...first.output, user("And an alpaca?"));
  const second = await client.responses.create({
    model,
    input,
    max_output_tokens: 40,
    temperature: 0,
  });
  assert(second.output_text && second.usage.input_tokens > first.usage.input_tokens, second);
  return [first.output_text, second.output_text];
}

async function stream() {
  const body = { model, input: "Count to five.", max_output_tokens: 40, temperature: 0 };
  const types = new Set();
  for await (const event of await client.responses.create({ ...body, stream: true }))
    types.add(event.type);
  assert(types.has("response.created") && types.has("response.output_text.done"), [...types]);

  const pieces = [];
  const helper = client.responses
    .stream(body)
    .on("response.output_text.delta", (event) => pieces.push(event.delta));
  const final = await helper.finalResponse();
  assert(pieces.length > 1, "it did not come in pieces");
  assert.equal(pieces.join(""), final.output_text);
  assert(["completed", "incomplete"].includes(final.status), final.status);
  assert(final.usage.output_tokens > 0);
  return final.output_text;
}

async function tools() {
  const whole = (body) => client.responses.create(body);
  const streamed = (body) => client.responses.stream(body).finalResponse();
  return [await toolLoop(whole), await toolLoop(streamed)];
}

async function toolLoop(ask) {
  const parameters = z.toJSONSchema(z.object({ city: z.enum(["Paris", "Oslo"]) }));
  const offered = [{ type: "function", name: "weather", parameters, strict: true }];
  const input = [user("How is the weather in Paris?")];
  const first = await ask({
    model,
    input,
    max_output_tokens: 100,
    temperature: 0,
    tools: offered,
    tool_choice: { type: "function", name: "weather" },
  });
  const call = first.output.find((item) => item.type === "function_call");
  assert.equal(call.name, "weather");
  assert.equal(first.status, "completed");
  const output = weather(JSON.parse(call.arguments).city);
  input.push(...first.output, { type: "function_call_output", call_id: call.call_id, output });
  const second = await ask({
    model,
    input,
    max_output_tokens: 40,
    temperature: 0,
    tools: offered,
    tool_choice: "none",
  });
  assert(second.output_text, second);
  return [call.arguments, second.output_text];
}

async function structured() {
  const Person = z.object({ name: z.string(), age: z.int() });
  const body = {
    model,
    max_output_tokens: 200,
    temperature: 0,
    input: [user("Anna is 31 years old. Who is she?")],
    text: { format: zodTextFormat(Person, "person") },
  };
  const whole = await client.responses.parse(body);
  const streamed = await client.responses.stream(body).finalResponse();
  for (const { output_parsed: parsed } of [whole, streamed])
    assert(typeof parsed.name === "string" && Number.isInteger(parsed.age), parsed);
  return whole.output_parsed;
}

async function error() {
  const input = "Hello";
  const stranger = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "sk-wrong" });
  const wrongKey = await raised(OpenAI.AuthenticationError, () =>
    stranger.responses.create({ model, input }),
  );
  assert.equal(wrongKey.code, "invalid_api_key");
  const stored = await raised(OpenAI.BadRequestError, () =>
    client.responses.create({ model, input, previous_response_id: "resp_1" }),
  );
  assert.equal(stored.param, "previous_response_id");
  assert(stored.requestID);
  return [wrongKey.message, stored.message];
}

async function truncated() {
  const input = "Tell me a long story.";
  const body = { model, input, max_output_tokens: 5, temperature: 0 };
  const whole = await client.responses.create(body);
  const streamed = await client.responses.stream(body).finalResponse();
  for (const reply of [whole, streamed]) {
    assert.equal(reply.status, "incomplete");
    assert.equal(reply.incomplete_details.reason, "max_output_tokens");
  }
  return `${whole.status}: ${whole.incomplete_details.reason}`;
}

async function broken(prompt) {
  const body = { model, input: prompt };
  const raw = async (said) => {
    for await (const event of await client.responses.create({ ...body, stream: true }))
      if (event.type === "response.output_text.delta") said.push(event.delta);
  };
  const helper = (said) =>
    client.responses
      .stream(body)
      .on("response.output_text.delta", (event) => said.push(event.delta))
      .finalResponse();
  const seen = [];
  for (const read of [raw, helper]) {
    const said = [];
    const failure = await raised(OpenAI.APIError, () => read(said));
    assert(said.join("") && failure.code, failure);
    seen.push(`${failure.code} after ${JSON.stringify(said.join(""))}`);
  }
  return seen;
}

await run({ chat, stream, tools, structured, error, truncated, broken });
