// The OpenAI SDK on /v1/chat/completions.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { gateway, raised, run, weather } from "./lib/features.mjs";

const model = gateway.model;
const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: gateway.key });
const user = (content) => ({ role: "user", content });

async function chat() {
  const reply = await client.chat.completions.create({
    model,
    max_tokens: 60,
    temperature: 0,
    messages: [{ role: "system", content: "Be short." }, user("What is a llama?")],
  });
  const [choice] = reply.choices;
  assert(choice.message.content, choice);
  assert(["stop", "length"].includes(choice.finish_reason), choice);
  assert(reply.usage.prompt_tokens > 0 && reply.usage.completion_tokens > 0, reply.usage);
  assert(reply._request_id);
  return choice.message.content;
}

async function stream() {
  const chunks = await client.chat.completions.create({
    model,
    max_tokens: 40,
    temperature: 0,
    messages: [user("Count to five.")],
    stream: true,
    stream_options: { include_usage: true },
  });
  const pieces = [];
  let end, usage;
  for await (const chunk of chunks) {
    const [choice] = chunk.choices;
    if (choice?.delta.content) pieces.push(choice.delta.content);
    end = choice?.finish_reason ?? end;
    usage = chunk.usage ?? usage;
  }
  assert(pieces.length > 1, "it did not come in pieces");
  assert(["stop", "length"].includes(end), `finish_reason ${end}`);
  assert(usage.completion_tokens > 0);
  return pieces.join("");
}

async function tools() {
  const whole = (body) => client.chat.completions.create(body);
  const streamed = (body) => client.chat.completions.stream(body).finalChatCompletion();
  return [await toolLoop(whole), await toolLoop(streamed)];
}

async function toolLoop(ask) {
  const parameters = z.toJSONSchema(z.object({ city: z.enum(["Paris", "Oslo"]) }));
  const offered = [{ type: "function", function: { name: "weather", parameters } }];
  const messages = [user("How is the weather in Paris?")];
  const first = await ask({
    model,
    messages,
    max_tokens: 100,
    temperature: 0,
    tools: offered,
    tool_choice: { type: "function", function: { name: "weather" } },
  });
  const [{ message, finish_reason }] = first.choices;
  const [call] = message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.equal(finish_reason, "tool_calls"); // OpenAI says "stop" of a forced call
  const result = weather(JSON.parse(call.function.arguments).city);
  messages.push(message, { role: "tool", tool_call_id: call.id, content: result });
  const second = await ask({
    model,
    messages,
    max_tokens: 40,
    temperature: 0,
    tools: offered,
    tool_choice: "none",
  });
  const answer = second.choices[0].message;
  assert(answer.content && !answer.tool_calls?.length, answer);
  return [call.function.arguments, answer.content];
}

async function structured() {
  const Person = z.object({ name: z.string(), age: z.int() });
  const reply = await client.chat.completions.parse({
    model,
    max_tokens: 200,
    temperature: 0,
    messages: [user("Anna is 31 years old. Who is she?")],
    response_format: zodResponseFormat(Person, "person"),
  });
  const { parsed } = reply.choices[0].message;
  assert(typeof parsed.name === "string" && Number.isInteger(parsed.age), parsed);
  return parsed;
}

async function error() {
  const messages = [user("Hello")];
  const stranger = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "sk-wrong" });
  const wrongKey = await raised(OpenAI.AuthenticationError, () =>
    stranger.chat.completions.create({ model, messages }),
  );
  assert.equal(wrongKey.code, "invalid_api_key");
  const tooHot = await raised(OpenAI.BadRequestError, () =>
    client.chat.completions.create({ model, messages, temperature: 9 }),
  );
  assert.equal(tooHot.param, "temperature");
  assert(tooHot.requestID);
  return [wrongKey.message, tooHot.message];
}

async function truncated() {
  const body = { model, max_tokens: 5, temperature: 0, messages: [user("Tell me a long story.")] };
  const whole = await client.chat.completions.create(body);
  const streamed = await client.chat.completions.stream(body).finalChatCompletion();
  const ends = [whole, streamed].map((reply) => reply.choices[0].finish_reason);
  assert.deepEqual(ends, ["length", "length"]);
  return ends;
}

async function broken(prompt) {
  const pieces = [];
  const body = { model, messages: [user(prompt)], stream: true };
  const failure = await raised(OpenAI.APIError, async () => {
    for await (const chunk of await client.chat.completions.create(body))
      pieces.push(chunk.choices[0].delta.content ?? "");
  });
  assert(pieces.join("") && failure.code, failure);
  return `${failure.code} after ${JSON.stringify(pieces.join(""))}`;
}

await run({ chat, stream, tools, structured, error, truncated, broken });
