// A producer in another language, written from docs/protocol.md:
//
//   node producer.mjs <socket of Redis> <file of the script>
//
// It sends to an actor with the title "shop.till", waits for a reply and for a result, and prints both.

import { createHash, randomBytes, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { Redis } from "./resp.mjs";

const [path, file] = process.argv.slice(2);
const redis = new Redis(path);
const listener = new Redis(path);

const source = `worker:${createHash("sha256").update("shop.till").digest("hex").slice(0, 16)}:source`;
const prefix = `actorwork:{${source}}:`;
const digest = await redis.call("SCRIPT", "LOAD", readFileSync(file, "utf8"));

function store(id, fields, terms = "") {
  const values = Object.entries({ id, ...fields }).flat();
  return redis.call(
    "EVALSHA", digest, 4,
    source, `${prefix}delayed`, `${prefix}delayed:messages`, `${prefix}seen:${id}`,
    prefix,
    4, "", terms === "" || typeof terms === "string" ? terms : JSON.stringify(terms), values.length, ...values,
  );
}

const paid = (order, more = {}) => ({ data: JSON.stringify({ order }), type: "Paid", ...more });

// Without the script: as a message, and as the fields of an entry.
await redis.call("XADD", source, "*", "data", JSON.stringify({ order: "added" }), "type", "Paid");
await redis.call("XADD", source, "*", "note", "fields alone", "count", "3");

// Once, however often it is sent.
const once = [await store("once", paid("once")), await store("once", paid("once"))];

// All terms together, in the order in which they must be handled: the two with the same key.
await store("first of the key", paid("first of the key", { key: "Ann" }), {});
await store("second of the key", paid("second of the key", { key: "Ann" }), {});
await store("urgent", paid("urgent", { priority: "critical" }), {});
await store("later", paid("later"), "+50");
await store("too late", paid("too late", { expires: "1000" }));
await store("in time", paid("in time"), { lifetime: 3_600_000 });
const unique = { unique: "invoice", ttl: 3_600_000, replace: false };
const held = [
  await store("holder", paid("holder", { unique: "invoice" }), { ...unique, due: "+3600000" }),
  await store("refused", paid("refused", { unique: "invoice" }), unique),
];

// A reply.
const channel = `actorwork:reply:${randomBytes(16).toString("hex")}`;
const reply = new Promise((resolve) => (listener.onMessage = (_, record) => resolve(JSON.parse(record))));
await listener.call("SUBSCRIBE", channel);
const asked = randomUUID();
const headers = JSON.stringify({ "actorwork-reply-to": channel, tenant: "blue" });
await redis.call("XADD", source, "*", "id", asked, "data", '{"order":"asked"}', "type", "Paid", "headers", headers);
const answer = await reply;

// A result that is kept: the channel of its state says when to look.
const submitted = randomUUID();
const ended = new Promise((resolve) => {
  listener.onMessage = (_, status) => ["SUCCESS", "FAILURE", "REJECTED"].includes(status) && resolve(status);
});
await listener.call("SUBSCRIBE", `${prefix}watch:${submitted}`);
await redis.call("SET", `actorwork:sent:as:${submitted}`, source, "EX", 3_456_000);
await store(
  submitted,
  paid("submitted", { headers: '{"actorwork-result-ttl":60}', claim: randomBytes(8).toString("hex") }),
  { keep: 60_000 },
);
const status = await ended;
const result = JSON.parse(await redis.call("GET", `${prefix}result:${submitted}`));

console.log(JSON.stringify({ once, held, asked, answer, submitted, status, result }));
redis.close();
listener.close();
