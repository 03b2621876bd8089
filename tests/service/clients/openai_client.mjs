// OpenAI's client for JavaScript, as anybody uses it, against the gateway at BASE_URL. Prints one
// line of JSON for each thing that it did. Before it aborts a request it waits for a line of its
// input, so that the request has reached the upstream by then.
import { once } from "node:events";
import { createInterface } from "node:readline";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const { BASE_URL: baseURL, GOOD_KEY: apiKey, SLOW_KEY, MODEL: model } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const input = createInterface({ input: process.stdin });
const say = (name, told) => console.log(JSON.stringify({ name, told }));
const asks = (content) => [{ role: "user", content }];

const City = z.object({ name: z.string(), people: z.number().int() });
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const weather = { name: "weather", description: "The weather of a city.", strict: true, parameters };
const chatTool = { type: "function", function: weather };

const parts = {
  async plain() {
    const { data, response } = await client.chat.completions
      .create({ model, messages: asks("hi") })
      .withResponse();
    const { content } = data.choices[0].message;
    return {
      content,
      finish: data.choices[0].finish_reason,
      usage: data.usage,
      tier: data.cascade.tier,
      run: data.cascade.run_id,
      header: response.headers.get("x-cascade-run-id"),
    };
  },

  async models() {
    const names = [];
    for await (const found of client.models.list()) names.push(found.id);
    return { names, one: (await client.models.retrieve(model)).id };
  },

  async stream() {
    const stream = await client.chat.completions.create({
      model,
      messages: asks("hi"),
      stream: true,
      stream_options: { include_usage: true },
    });
    let [text, finish, usage] = ["", null, null];
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    return { text, finish, usage };
  },

  async stream_helper() {
    const heard = [];
    const stream = client.chat.completions
      .stream({ model, messages: asks("hi") })
      .on("content", (delta) => heard.push(delta));
    return { heard: heard, text: await stream.finalContent(), chunks: heard.length };
  },

  async tools() {
    const messages = asks("the weather in 'Oslo'");
    const first = await client.chat.completions.create({
      model,
      messages,
      tools: [chatTool],
      tool_choice: "required",
      parallel_tool_calls: false,
    });
    const { message, finish_reason } = first.choices[0];
    const call = message.tool_calls[0];
    messages.push(message, { role: "tool", tool_call_id: call.id, content: "rain" });
    const second = await client.chat.completions.create({ model, messages, tools: [chatTool] });
    return { finish_reason, call, then: second.choices[0].message.content };
  },

  async run_tools() {
    const asked = [];
    const runner = client.chat.completions.runTools({
      model,
      messages: asks("the weather in 'Oslo'"),
      stream: true,
      tools: [
        {
          type: "function",
          function: {
            ...weather,
            parse: JSON.parse,
            function: ({ city }) => asked.push(city) && `${city}: rain`,
          },
        },
      ],
    });
    return { text: await runner.finalContent(), asked };
  },

  async structured() {
    const completion = await client.chat.completions.parse({
      model,
      messages: asks("'Paris' has 2100000 people"),
      response_format: zodResponseFormat(City, "city"),
    });
    return completion.choices[0].message.parsed;
  },

  async structured_stream() {
    const stream = client.chat.completions.stream({
      model,
      messages: asks("'Paris' has 2100000 people"),
      response_format: zodResponseFormat(City, "city"),
    });
    return (await stream.finalChatCompletion()).choices[0].message.parsed;
  },

  async schema() {
    const completion = await client.chat.completions.create({
      model,
      messages: asks("'Paris' has 2100000 people"),
      response_format: {
        type: "json_schema",
        json_schema: { name: "city", strict: true, schema: z.toJSONSchema(City) },
      },
    });
    return JSON.parse(completion.choices[0].message.content);
  },

  async usual_parameters() {
    const completion = await client.chat.completions.create({
      model,
      messages: asks("hi"),
      frequency_penalty: 0.1,
      logit_bias: { 50256: -100 },
      metadata: { ticket: "7" },
      prompt_cache_key: "of-the-user",
      reasoning_effort: "low",
      safety_identifier: "hashed",
      service_tier: "auto",
      store: false,
      user: "ada",
      verbosity: "low",
    });
    return completion.choices[0].message.content;
  },

  async responses() {
    const first = await client.responses.create({ model, input: "hi", store: true });
    const second = await client.responses.create({
      model,
      input: "and now?",
      previous_response_id: first.id,
    });
    const kept = await client.responses.retrieve(first.id);
    return { text: first.output_text, then: second.output_text, kept: kept.output_text };
  },

  async responses_stream() {
    const stream = client.responses.stream({ model, input: "hi" });
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    return { kinds, text: (await stream.finalResponse()).output_text };
  },

  async responses_tools() {
    const asked = [{ role: "user", content: "the weather in 'Oslo'" }];
    const tools = [{ type: "function", ...weather }];
    const first = await client.responses.create({ model, input: asked, tools });
    const call = first.output.find((item) => item.type === "function_call");
    asked.push(...first.output);
    asked.push({ type: "function_call_output", call_id: call.call_id, output: "rain" });
    const second = await client.responses.create({ model, input: asked, tools });
    return { name: call.name, arguments: call.arguments, then: second.output_text };
  },

  async responses_parse() {
    const response = await client.responses.parse({
      model,
      input: "'Paris' has 2100000 people",
      text: { format: zodTextFormat(City, "city") },
    });
    return response.output_parsed;
  },

  async errors() {
    const told = (error) => ({
      class: error.constructor.name,
      status: error.status,
      code: error.code,
      param: error.param,
      wait: error.headers?.get("retry-after") ?? null,
    });
    const failing = async (who, body) => {
      try {
        await who.chat.completions.create({ model, messages: asks("hi"), ...body });
      } catch (error) {
        return told(error);
      }
      return "no error";
    };
    const slow = client.withOptions({ apiKey: SLOW_KEY });
    await failing(slow, {});
    return {
      key: await failing(client.withOptions({ apiKey: "csk_wrong" }), {}),
      model: await failing(client, { model: "none" }),
      value: await failing(client, { n: 99 }),
      parameter: await failing(client, { functions: [{ name: "old" }] }),
      rate: await failing(slow, {}),
      upstream_rate: await failing(client, { messages: asks("too many") }),
      upstream: await failing(client, { messages: asks("fail") }),
    };
  },

  async abort_plain() {
    const stop = new AbortController();
    const waiting = client.chat.completions.create(
      { model, messages: asks("hang plain") },
      { signal: stop.signal },
    );
    say("abort_me", "plain");
    await once(input, "line");
    stop.abort();
    return waiting.then(
      () => "no error",
      (error) => error.constructor.name,
    );
  },

  async abort_stream() {
    const stream = await client.chat.completions.create({
      model,
      messages: asks("hang stream"),
      stream: true,
    });
    const heard = [];
    for await (const chunk of stream) {
      const text = chunk.choices[0]?.delta.content;
      if (!text) continue;
      heard.push(text);
      stream.controller.abort();
    }
    return heard;
  },
};

for (const [name, part] of Object.entries(parts)) {
  try {
    say(name, await part());
  } catch (error) {
    say(name, { failed: `${error.constructor.name}: ${error.message}` });
  }
}
input.close();
