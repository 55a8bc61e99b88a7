// Asks the AI SDK for an object and prints it as one JSON line.
//
//   node generate_object.mjs responses|chat BASE_URL MODEL PROMPT
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject } from "ai";
import { z } from "zod";

const [kind, baseURL, model, prompt] = process.argv.slice(2);
const provider = createOpenAI({ baseURL, apiKey: "none" });
const { object } = await generateObject({
  model: kind === "chat" ? provider.chat(model) : provider.responses(model),
  schema: z.object({ name: z.string(), age: z.number() }),
  prompt,
});
console.log(JSON.stringify(object));
