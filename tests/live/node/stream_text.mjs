// Streams one turn with a tool through the AI SDK and prints what came out as one JSON line.
//
//   node stream_text.mjs responses|open|chat|compatible|messages BASE_URL MODEL PROMPT
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [kind, baseURL, model, prompt] = process.argv.slice(2);
const settings = { baseURL, apiKey: "none", name: "forwarder" };
const models = {
  responses: () => createOpenAI(settings).responses(model),
  open: () => createOpenResponses({ ...settings, url: `${baseURL}/responses` })(model),
  chat: () => createOpenAI(settings).chat(model),
  compatible: () => createOpenAICompatible({ ...settings, includeUsage: true })(model),
  messages: () => createAnthropic(settings)(model),
};

// Anthropic's models think only if they are asked to.
const thinking = { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } } };

const asked = [];
const weather = tool({
  description: "Get the weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    asked.push(city);
    return `sunny in ${city}`;
  },
});

const result = streamText({
  model: models[kind](),
  prompt,
  tools: { get_weather: weather },
  stopWhen: stepCountIs(4),
  providerOptions: kind === "messages" ? thinking : {},
  onError: ({ error }) => {
    console.error(error);
    process.exitCode = 1;
  },
});

let text = "";
let reasoning = "";
for await (const part of result.fullStream) {
  if (part.type === "text-delta") text += part.text;
  if (part.type === "reasoning-delta") reasoning += part.text;
}
const usage = await result.totalUsage;
console.log(
  JSON.stringify({ text, reasoning, asked, finish: await result.finishReason, tokens: usage.totalTokens }),
);
