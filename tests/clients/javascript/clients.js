// Clients of JavaScript against a gateway: `node clients.js URL KEY` prints a JSON table.

import { readFileSync } from "node:fs";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { z } from "zod";

const [url, key] = process.argv.slice(2);
const MODEL = "support";
const MISSING = "no-such-cascade";
const ASKED = [{ role: "user", content: "What is the capital of Australia?" }];
const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
};
const TOOL = { type: "function", function: { name: "weather", parameters: PARAMETERS } };

const same = (found, wanted) =>
  JSON.stringify(found) === JSON.stringify(wanted) ? "ok" : JSON.stringify(found);

async function refused(ask) {
  try {
    return `answered ${JSON.stringify(await ask())}`;
  } catch (error) {
    return String(error.message).includes(MISSING) ? "ok" : `${error}`;
  }
}

async function joined(pieces, text) {
  let whole = "";
  for await (const piece of pieces) whole += text(piece) ?? "";
  return same(whole, "Canberra");
}

function openaiClient() {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
  const ask = (given = {}) =>
    client.chat.completions.create({ model: MODEL, messages: ASKED, ...given });
  return {
    plain: async () => same((await ask()).choices[0].message.content, "Canberra"),
    stream: async () =>
      joined(await ask({ stream: true }), (chunk) => chunk.choices[0]?.delta.content),
    tools: async () => {
      const called = (await ask({ tools: [TOOL] })).choices[0].message;
      const told = { role: "tool", tool_call_id: called.tool_calls[0].id, content: "21 degrees" };
      const answer = await ask({ tools: [TOOL], messages: [...ASKED, called, told] });
      return same(answer.choices[0].message.content, "It is warm");
    },
    structured: async () => {
      const json_schema = { name: "city", schema: PARAMETERS, strict: true };
      const answer = await ask({ response_format: { type: "json_schema", json_schema } });
      return same(JSON.parse(answer.choices[0].message.content), { city: "Canberra" });
    },
    usage: async () => same((await ask()).usage.total_tokens, 110),
    error: async () => refused(() => ask({ model: MISSING })),
  };
}

function anthropicClient() {
  const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
  const tools = [{ name: "weather", input_schema: PARAMETERS }];
  const ask = (given = {}) =>
    client.messages.create({ model: MODEL, max_tokens: 50, messages: ASKED, ...given });
  return {
    plain: async () => same((await ask()).content[0].text, "Canberra"),
    stream: async () => {
      const stream = client.messages.stream({ model: MODEL, max_tokens: 50, messages: ASKED });
      return same(await stream.finalText(), "Canberra");
    },
    tools: async () => {
      const called = await ask({ tools });
      const call = called.content.find((block) => block.type === "tool_use");
      const told = { type: "tool_result", tool_use_id: call.id, content: "21 degrees" };
      const messages = [
        ...ASKED,
        { role: "assistant", content: called.content },
        { role: "user", content: [told] },
      ];
      return same((await ask({ tools, messages })).content.at(-1).text, "It is warm");
    },
    structured: async () => {
      const format = { type: "json_schema", schema: PARAMETERS };
      const answer = await ask({ output_config: { format } });
      return same(JSON.parse(answer.content[0].text), { city: "Canberra" });
    },
    usage: async () => same((await ask()).usage.output_tokens, 10),
    error: async () => refused(() => ask({ model: MISSING })),
  };
}

function ollamaClient() {
  const client = new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
  const ask = (given = {}) => client.chat({ model: MODEL, messages: ASKED, ...given });
  return {
    plain: async () => same((await ask()).message.content, "Canberra"),
    stream: async () => joined(await ask({ stream: true }), (part) => part.message.content),
    tools: async () => {
      const called = (await ask({ tools: [TOOL] })).message;
      const told = { role: "tool", content: "21 degrees", tool_name: "weather" };
      const answer = await ask({ tools: [TOOL], messages: [...ASKED, called, told] });
      return same(answer.message.content, "It is warm");
    },
    structured: async () =>
      same(JSON.parse((await ask({ format: PARAMETERS })).message.content), { city: "Canberra" }),
    usage: async () => same((await ask()).eval_count, 10),
    error: async () => refused(() => ask({ model: MISSING })),
  };
}

function vercelClient() {
  const provider = createOpenAICompatible({
    name: "cascade",
    baseURL: `${url}/v1`,
    apiKey: key,
    supportsStructuredOutputs: true,
  });
  const ask = (given = {}) =>
    generateText({ model: provider(MODEL), prompt: "Capital?", maxRetries: 0, ...given });
  const weather = tool({
    description: "The weather.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `21 degrees in ${city}`,
  });
  return {
    plain: async () => same((await ask()).text, "Canberra"),
    stream: async () =>
      joined(streamText({ model: provider(MODEL), prompt: "Capital?" }).textStream, (t) => t),
    tools: async () =>
      same((await ask({ tools: { weather }, stopWhen: stepCountIs(3) })).text, "It is warm"),
    structured: async () => {
      const output = Output.object({ schema: z.object({ city: z.string() }) });
      return same((await ask({ output })).output, { city: "Canberra" });
    },
    usage: async () => same((await ask()).usage.outputTokens, 10),
    error: async () => refused(() => ask({ model: provider(MISSING) })),
  };
}

const CLIENTS = {
  openai: ["openai", openaiClient],
  anthropic: ["@anthropic-ai/sdk", anthropicClient],
  ollama: ["ollama", ollamaClient],
  "Vercel ai": ["ai", vercelClient],
};
const FEATURES = ["plain", "stream", "tools", "structured", "usage", "error"];

const table = {};
for (const [name, [packageName, make]] of Object.entries(CLIENTS)) {
  const manifest = readFileSync(`node_modules/${packageName}/package.json`, "utf8");
  const features = make();
  const row = { version: JSON.parse(manifest).version };
  for (const feature of FEATURES) {
    try {
      row[feature] = feature in features ? await features[feature]() : "–";
    } catch (error) {
      row[feature] = `${error}`.slice(0, 300);
    }
  }
  table[`${name} (JavaScript)`] = row;
}
console.log(JSON.stringify(table));
