// Make models of an AsyncAPI document: node generate.mjs ASYNCAPI.json FOLDER
// writes FOLDER/models.py (pydantic) and FOLDER/models.mjs, compiled from TypeScript.
import { readFileSync, writeFileSync } from "node:fs";
import { PYTHON_PYDANTIC_PRESET, PythonGenerator, TS_COMMON_PRESET, TypeScriptGenerator } from "@asyncapi/modelina";
import ts from "typescript";

const [file, folder] = process.argv.slice(2);
const document = JSON.parse(readFileSync(file));

const python = await new PythonGenerator({ presets: [PYTHON_PYDANTIC_PRESET] }).generate(document);
const imports = new Set(python.flatMap((model) => model.dependencies).filter((line) => !line.startsWith("from .")));
imports.delete("from __future__ import annotations"); // it goes first
const source = ["from __future__ import annotations", ...imports, ...python.map((model) => model.result)];
writeFileSync(`${folder}/models.py`, source.join("\n"));

const presets = [{ preset: TS_COMMON_PRESET, options: { marshalling: true } }];
const typescript = await new TypeScriptGenerator({ presets }).generate(document);
const text = typescript.map((model) => `export ${model.result}`).join("\n");
const options = { module: ts.ModuleKind.ES2022, target: ts.ScriptTarget.ES2022, strict: true };
writeFileSync(`${folder}/models.ts`, text);
writeFileSync(`${folder}/models.mjs`, ts.transpile(text, options));
