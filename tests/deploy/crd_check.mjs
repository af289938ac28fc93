// Validates custom resources against the schemas of their operators, as node packages carry them.
//
//   node crd_check.mjs NODE_MODULES < objects.json
//
// Reads a JSON list of Kubernetes objects; prints a JSON list of what is wrong, one text a fault.
// A compiled schema reads every field that it knows and passes over the others; so a field that
// nobody has read, beside others that were, is one that the resource does not have.
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";
import path from "node:path";

const PACKAGES = {
  "monitoring.coreos.com": "prometheus-operator",
  "keda.sh": "keda",
  "networking.istio.io": "istio",
  "security.istio.io": "istio",
  "telemetry.istio.io": "istio",
  "extensions.istio.io": "istio",
  "gateway.networking.k8s.io": "gateway-api",
};

function watched(value, place, seen) {
  if (value === null || typeof value !== "object") return value;
  const children = new Map();
  for (const key of Object.keys(value)) children.set(key, watched(value[key], `${place}.${key}`, seen));
  const read = new Set();
  if (!Array.isArray(value)) seen.push({ place, keys: Object.keys(value), read });
  return new Proxy(value, {
    get(target, key) {
      read.add(key);
      return children.has(key) ? children.get(key) : target[key];
    },
  });
}

async function faults(object) {
  const { apiVersion = "", kind = "", metadata = {} } = object;
  const name = `${kind}/${metadata.name}`;
  const [group, version] = apiVersion.split("/");
  if (!(group in PACKAGES)) return [`${name}: no schema for ${apiVersion}`];
  const file = path.join(process.argv[2], "@kubernetes-models", PACKAGES[group], group, version, `${kind}.js`);
  let validate;
  try {
    // The class copies what it validates; its schema, which it imports, looks at the object itself.
    const schema = /"([./]*_schemas\/[^"]+)"/.exec(readFileSync(file, "utf8"))[1];
    ({ validate } = await import(pathToFileURL(path.resolve(path.dirname(file), schema))));
  } catch (error) {
    return [`${name}: ${apiVersion} has no ${kind}: ${error.message}`];
  }
  const seen = [];
  const found = [];
  if (!validate(watched(object, "", seen))) {
    for (const { instancePath, message, keyword } of validate.errors) {
      found.push(`${name}: ${instancePath} ${message ?? keyword}`);
    }
  }
  for (const { place, keys, read } of seen) {
    // Of an object in which no field was read, the schema says nothing.
    if (place && !keys.some((key) => read.has(key))) continue;
    for (const key of keys) if (!read.has(key)) found.push(`${name}: ${place}.${key} is not known`);
  }
  return found;
}

let text = "";
for await (const chunk of process.stdin) text += chunk;
const all = [];
for (const object of JSON.parse(text)) all.push(...(await faults(object)));
console.log(JSON.stringify(all, null, 1));
