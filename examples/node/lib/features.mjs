// What these programs share: where the gateway is, and running the features named in argv.

import assert from "node:assert/strict";

export const gateway = {
  url: process.env.LLAMA_GATEWAY_URL ?? "http://localhost:8000", // without /v1
  key: process.env.LLAMA_GATEWAY_KEY || "none",
  model: process.env.LLAMA_GATEWAY_MODEL ?? "smollm2-135m-instruct",
};

/**
 * Run the features named on the command line, or all, and say what each of them saw.
 *
 * Ends with status 2, before any is run, when a name is unknown.
 */
export async function run(features) {
  const known = Object.keys(features);
  const names = process.argv.length > 2 ? process.argv.slice(2) : known;
  const unknown = names.filter((name) => !known.includes(name));
  if (unknown.length) {
    console.error(`no feature ${unknown.join(", ")}; there are ${known.join(", ")}`);
    process.exit(2);
  }
  for (const name of names) {
    if (name === "broken" && !process.env.LLAMA_GATEWAY_BROKEN_PROMPT) {
      console.log("broken: skipped, LLAMA_GATEWAY_BROKEN_PROMPT is not set");
      continue;
    }
    const seen = await features[name](process.env.LLAMA_GATEWAY_BROKEN_PROMPT);
    console.log(`${name}: ok, ${JSON.stringify(seen)}`);
  }
}

/** The error that *call* ends with; it must be a *kind* for which *check* holds. */
export async function raised(kind, call, check = () => true) {
  try {
    await call();
  } catch (error) {
    assert(error instanceof kind && check(error), error);
    return error;
  }
  assert.fail(`no ${kind.name} was raised`);
}

/** The tool that the programs offer. */
export function weather(city) {
  assert(typeof city === "string" && city, "the model gave no city");
  return `21 degrees and sunny in ${city}`;
}
