// Talks to the forwarder with Ollama's JavaScript client; prints what came out as one JSON line.
//
//   node ollama.mjs chat|stream|tools|think|json|generate|image|embed|models|refused|broken HOST MODEL
import { Ollama } from "ollama";
import { z } from "zod";

const [what, host, model] = process.argv.slice(2);
const client = new Ollama({ host });
const messages = [{ role: "user", content: "hi" }];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city.",
    parameters: { type: "object", required: ["city"], properties: { city: { type: "string" } } },
  },
};
const PNG = "iVBORw0KGgo=";

async function gathered(parts) {
  const said = { text: "", thinking: "", parts: 0, last: null };
  for await (const part of parts) {
    said.text += part.message?.content ?? part.response ?? "";
    said.thinking += part.message?.thinking ?? part.thinking ?? "";
    said.parts += 1;
    said.last = part;
  }
  return said;
}

const scenes = {
  chat: () => client.chat({ model, messages }),
  stream: async () => gathered(await client.chat({ model, messages, stream: true })),
  think: async () => gathered(await client.chat({ model, messages, stream: true, think: "low" })),
  generate: async () => gathered(await client.generate({ model, prompt: "hi", system: "brief", stream: true })),
  image: () => client.chat({ model, messages: [{ role: "user", content: "what?", images: [PNG] }] }),
  json: async () => {
    const schema = z.object({ city: z.string() });
    const { message } = await client.chat({ model, messages, format: z.toJSONSchema(schema) });
    return schema.parse(JSON.parse(message.content));
  },
  tools: async () => {
    const first = await client.chat({ model, messages, tools: [weather] });
    const results = first.message.tool_calls.map((call) => ({
      role: "tool",
      tool_name: call.function.name,
      content: `sunny in ${call.function.arguments.city}`,
    }));
    const last = await client.chat({ model, messages: [...messages, first.message, ...results], tools: [weather] });
    return { calls: first.message.tool_calls, text: last.message.content };
  },
  embed: async () => [
    (await client.embed({ model, input: ["four", "seventy"] })).embeddings,
    (await client.embeddings({ model, prompt: "four" })).embedding,
  ],
  models: async () => {
    const created = await client.create({ model: `${model}-2`, from: model, system: "x", stream: false });
    const statuses = [];
    for await (const part of await client.create({ model: `${model}-2`, from: model, stream: true })) statuses.push(part.status);
    const copied = await client.copy({ source: `${model}-2`, destination: `${model}-3` });
    const names = async () => (await client.list()).models.map((each) => each.name);
    const [before, shown, running] = [await names(), await client.show({ model }), await client.ps()];
    for (const suffix of ["-2", "-3"]) await client.delete({ model: model + suffix });
    const gone = await client.show({ model: `${model}-2` }).catch((error) => error.status_code);
    return {
      statuses: [created.status, statuses.at(-1), copied.status], before, after: await names(), shown, gone,
      running: running.models.map((each) => each.name), version: (await client.version()).version,
    };
  },
  refused: async () => {
    try {
      return await client.chat({ model, messages, stream: true });
    } catch (error) {
      return { status: error.status_code, error: error.error };
    }
  },
  broken: async () => {
    const said = [];
    try {
      for await (const part of await client.chat({ model, messages, stream: true })) said.push(part);
    } catch (error) {
      return { error: error.message, done: said.some((part) => part.done), parts: said.length };
    }
    return { error: null };
  },
};

console.log(JSON.stringify(await scenes[what]()));
