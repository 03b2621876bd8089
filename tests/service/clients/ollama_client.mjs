// Ollama's client for JavaScript, as anybody uses it, against the gateway at BASE_URL. Prints one
// line of JSON for each thing that it did.
import { Ollama } from "ollama";

const { BASE_URL: host, GOOD_KEY, MODEL: model } = process.env;
const client = new Ollama({ host, headers: { Authorization: `Bearer ${GOOD_KEY}` } });
const messages = [{ role: "user", content: "hi" }];

const parts = {
  async list() {
    return (await client.list()).models.map((found) => found.name);
  },

  async show() {
    return (await client.show({ model })).capabilities;
  },

  async chat() {
    const { message, done, done_reason, eval_count } = await client.chat({ model, messages });
    return { message, done, done_reason, eval_count };
  },

  async chat_stream() {
    const heard = [];
    let last = null;
    for await (const part of await client.chat({ model, messages, stream: true })) {
      heard.push(part.message.content);
      last = part;
    }
    return { text: heard.join(""), done: last.done, tier: last.cascade.tier };
  },

  async generate() {
    const { response, done } = await client.generate({ model, prompt: "hi", system: "Be short." });
    return { response, done };
  },

  async generate_stream() {
    let text = "";
    for await (const part of await client.generate({ model, prompt: "hi", stream: true })) {
      text += part.response;
    }
    return text;
  },

  async tools() {
    const parameters = {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
    };
    const description = "The weather of a city.";
    const tools = [{ type: "function", function: { name: "weather", description, parameters } }];
    const asked = [{ role: "user", content: "the weather in 'Oslo'" }];
    const first = await client.chat({ model, messages: asked, tools });
    asked.push(first.message, { role: "tool", content: "rain", tool_name: "weather" });
    const second = await client.chat({ model, messages: asked, tools });
    return { call: first.message.tool_calls[0].function, then: second.message.content };
  },

  async structured() {
    const format = {
      type: "object",
      properties: { name: { type: "string" }, people: { type: "integer" } },
      required: ["name", "people"],
    };
    const asked = [{ role: "user", content: "'Paris' has 2100000 people" }];
    return JSON.parse((await client.chat({ model, messages: asked, format })).message.content);
  },

  async unknown_model() {
    try {
      await client.chat({ model: "none", messages });
    } catch (error) {
      return { class: error.name, status: error.status_code, message: error.message };
    }
    return "no error";
  },

  async abort() {
    const asked = [{ role: "user", content: "hang stream" }];
    const stream = await client.chat({ model, messages: asked, stream: true });
    try {
      for await (const part of stream) if (part.message.content) stream.abort();
    } catch (error) {
      return error.name;
    }
    return "no error";
  },
};

for (const [name, part] of Object.entries(parts)) {
  let told;
  try {
    told = await part();
  } catch (error) {
    told = { failed: `${error.constructor.name}: ${error.message}` };
  }
  console.log(JSON.stringify({ name, told }));
}
