// Reads recorded streams with the SDKs for Node; one line of JSON each, as golden_python.py does:
//
//   node --experimental-import-meta-resolve tests/clients/golden.mjs http://127.0.0.1:1234 \
//     chat=engine-length responses=engine-tool
import { pathToFileURL } from "node:url";

// The packages are those of examples/node.
const programs = pathToFileURL("examples/node/any.mjs");
const load = (name) => import(import.meta.resolve(name, programs));
const OpenAI = (await load("openai")).default;
const Anthropic = (await load("@anthropic-ai/sdk")).default;
const { streamText, jsonSchema, tool } = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");

const ENDINGS = {
  stop: "complete", tool_calls: "complete", "tool-calls": "complete", length: "length",
  completed: "complete", incomplete: "length",
  end_turn: "complete", tool_use: "complete", max_tokens: "length",
};
const told = (finish, text, calls = [], usage = null) =>
  ({ ending: ENDINGS[finish] ?? "open", text, calls, usage });
const messages = [{ role: "user", content: "hi" }];
const openai = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "k", maxRetries: 0 });
const anthropic = (url) => new Anthropic({ baseURL: url, apiKey: "k", maxRetries: 0 });
const chatUsage = (usage) => usage && [usage.prompt_tokens, usage.completion_tokens];
const ASK = { model: "m", messages, stream: true, stream_options: { include_usage: true } };

async function chatRaw(url) {
  let text = "", finish, usage;
  const calls = [];
  for await (const chunk of await openai(url).chat.completions.create(ASK)) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? "";
      finish = choice.finish_reason ?? finish;
      for (const call of choice.delta.tool_calls ?? []) {
        const known = (calls[call.index] ??= ["", ""]);
        known[0] += call.function.name ?? "";
        known[1] += call.function.arguments ?? "";
      }
    }
  }
  return told(finish, text, calls, chatUsage(usage));
}

async function chatHelper(url) {
  const reply = await openai(url).chat.completions.stream(ASK).finalChatCompletion();
  const [choice] = reply.choices;
  const calls = (choice.message.tool_calls ?? []).map((call) =>
    [call.function.name, call.function.arguments]);
  return told(choice.finish_reason, choice.message.content ?? "", calls, chatUsage(reply.usage));
}

async function completionsRaw(url) {
  let text = "", finish, usage;
  const asked = { model: "m", prompt: "hi", stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await openai(url).completions.create(asked)) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      text += choice.text;
      finish = choice.finish_reason ?? finish;
    }
  }
  return told(finish, text, [], chatUsage(usage));
}

function responseTold(response) {
  const items = response.output;
  const calls = items.filter((item) => item.type === "function_call")
    .map((item) => [item.name, item.arguments]);
  const text = items.filter((item) => item.type === "message")
    .flatMap((item) => item.content).map((part) => part.text).join("");
  const usage = response.usage && [response.usage.input_tokens, response.usage.output_tokens];
  return told(response.status, text, calls, usage);
}

async function responsesRaw(url) {
  let text = "", last;
  for await (const event of await openai(url).responses.create({ model: "m", input: "hi", stream: true })) {
    last = event;
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  const done = ["response.completed", "response.incomplete"].includes(last?.type);
  return { ...(done ? responseTold(last.response) : told(null, text)), pieces: text };
}

async function responsesHelper(url) {
  const stream = openai(url).responses.stream({ model: "m", input: "hi" });
  return responseTold(await stream.finalResponse());
}

const messageUsage = (usage) =>
  [usage.input_tokens + (usage.cache_read_input_tokens ?? 0), usage.output_tokens];

async function messagesRaw(url) {
  let text = "", stop, stopped = false, usage;
  const calls = [];
  const asked = { model: "m", max_tokens: 100, messages, stream: true };
  for await (const event of await anthropic(url).messages.create(asked)) {
    if (event.type === "content_block_start" && event.content_block.type === "tool_use") {
      calls.push([event.content_block.name, ""]);
    } else if (event.delta?.type === "text_delta") {
      text += event.delta.text;
    } else if (event.delta?.type === "input_json_delta") {
      calls.at(-1)[1] += event.delta.partial_json;
    } else if (event.type === "message_delta") {
      stop = event.delta.stop_reason;
      usage = messageUsage(event.usage);
    }
    stopped ||= event.type === "message_stop";
  }
  return told(stopped ? stop : null, text, calls, usage);
}

async function messagesHelper(url) {
  const asked = { model: "m", max_tokens: 100, messages };
  const message = await anthropic(url).messages.stream(asked).finalMessage();
  const of = (type) => message.content.filter((block) => block.type === type);
  const calls = of("tool_use").map((block) => [block.name, JSON.stringify(block.input)]);
  const text = of("text").map((block) => block.text).join("");
  return told(message.stop_reason, text, calls, messageUsage(message.usage));
}

const noted = () => tool({ inputSchema: jsonSchema({ type: "object" }) });
const tools = { get_weather: noted(), list_cities: noted() };

async function vercel(model) {
  const errors = [];
  const result = streamText({
    model, prompt: "hi", tools, maxRetries: 0, onError: ({ error }) => errors.push(error),
  });
  let text = "", finish, usage;
  const calls = [];
  for await (const part of result.fullStream ?? result.stream) {
    if (part.type === "text-delta") text += part.text;
    if (part.type === "tool-call") calls.push([part.toolName, JSON.stringify(part.input)]);
    if (part.type === "error") throw part.error;
    if (part.type === "finish") {
      finish = part.finishReason;
      usage = [part.totalUsage.inputTokens, part.totalUsage.outputTokens];
    }
  }
  if (errors.length) throw errors[0];
  return told(finish, text, calls, usage);
}

const compatible = (url) => vercel(createOpenAICompatible({
  name: "gateway", baseURL: `${url}/v1`, apiKey: "k", includeUsage: true,
})("m"));
const aiOpenAI = (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "k" });

const READERS = {
  chat: { raw: chatRaw, helper: chatHelper, "ai-compatible": compatible,
    "ai-openai": (url) => vercel(aiOpenAI(url).chat("m")) },
  completions: { raw: completionsRaw },
  responses: { raw: responsesRaw, helper: responsesHelper,
    "ai-openai": (url) => vercel(aiOpenAI(url).responses("m")) },
  messages: { raw: messagesRaw, helper: messagesHelper },
};

const [base, ...wanted] = process.argv.slice(2);
process.on("unhandledRejection", () => {}); // the error was thrown at the reader, too
for (const each of wanted) {
  const [dialect, name] = each.split("=");
  for (const [reader, read] of Object.entries(READERS[dialect])) {
    let found;
    try {
      found = await read(`${base}/${name}`);
    } catch (error) {
      found = { ending: "raised", detail: `${error?.name}: ${error?.message}`.slice(0, 200) };
    }
    console.log(JSON.stringify({ reader: `${dialect} ${reader}`, case: name, ...found }));
  }
}
