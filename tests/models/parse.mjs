// Parse messages by the TypeScript models: node parse.mjs FOLDER < MESSAGES
// Each line is [name of the model, message]; it is parsed, written again and compared.
import { deepStrictEqual } from "node:assert";
import { createInterface } from "node:readline";

const models = await import(`${process.argv[2]}/models.mjs`);
for await (const line of createInterface({ input: process.stdin })) {
  const [name, message] = JSON.parse(line);
  deepStrictEqual(JSON.parse(models[name].unmarshal(message).marshal()), message, name);
}
