// Runs one turn with a tool through Anthropic's SDK for TypeScript and prints it as one JSON line.
//
//   node anthropic.mjs BASE_URL MODEL PROMPT
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, model, prompt] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey: "none", maxRetries: 0 });

const stream = client.messages.stream({
  model,
  max_tokens: 2000,
  thinking: { type: "enabled", budget_tokens: 1024 },
  messages: [{ role: "user", content: prompt }],
  tools: [
    {
      name: "get_weather",
      input_schema: { type: "object", properties: { city: { type: "string" } } },
    },
  ],
});

let text = "";
stream.on("text", (delta) => {
  text += delta;
});
const message = await stream.finalMessage();
const { input_tokens: counted } = await client.messages.countTokens({
  model,
  messages: [{ role: "user", content: prompt }],
});
console.log(JSON.stringify({ text, message, counted }));
