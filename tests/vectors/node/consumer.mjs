// A consumer of plain messages in another language, written from docs/protocol.md:
//
//   node consumer.mjs <socket of Redis> <source> <group>
//
// It prints each message that it handles, answers those whose senders wait with their text in capitals, and ends with the
// message {"text": "the end"}.

import { Redis } from "./resp.mjs";

const [path, source, group] = process.argv.slice(2);
const prefix = `actorwork:{${source}}:`;
const redis = new Redis(path);

async function join() {
  try {
    await redis.call("XGROUP", "CREATE", source, group, "0", "MKSTREAM");
  } catch (error) {
    if (!error.message.startsWith("BUSYGROUP")) throw error;
  }
}

function read(entry, values) {
  const fields = {};
  for (let i = 0; i < values.length; i += 2) fields[values[i]] = values[i + 1];
  if (!("data" in fields)) {
    const own = Object.entries(fields).filter(([name]) => !name.startsWith("actorwork:"));
    const headers = fields["actorwork:headers"];
    return {
      id: fields["actorwork:id"] || entry,
      message: Object.fromEntries(own),
      headers: headers ? JSON.parse(headers) : {},
      group: fields["actorwork:group"],
    };
  }
  return {
    id: fields.id || entry,
    message: JSON.parse(fields.data),
    type: fields.type,
    headers: fields.headers ? JSON.parse(fields.headers) : {},
    group: fields.group,
    expires: fields.expires ? Number(fields.expires) : undefined,
  };
}

async function settle(entry) {
  if (await redis.call("EXISTS", `${prefix}groups`)) {
    await redis.call("XACK", source, group, entry); // Actors read it too, and their nodes delete it.
    return;
  }
  await Promise.all([
    redis.call("MULTI"),
    redis.call("XACK", source, group, entry),
    redis.call("XDEL", source, entry),
    redis.call("EXEC"),
  ]);
}

async function handle(entry, values) {
  const delivery = read(entry, values);
  const { id, message, type, headers } = delivery;
  const isForOthers = delivery.group !== undefined && delivery.group !== group;
  const [seconds, microseconds] = await redis.call("TIME");
  const now = Number(seconds) * 1000 + Number(microseconds) / 1000;
  const isOver = delivery.expires !== undefined && delivery.expires <= now;
  if (isForOthers || "actorwork-failed" in headers || isOver) {
    await settle(entry);
    return true;
  }
  console.log(JSON.stringify({ id, type, message }));
  const replyTo = headers["actorwork-reply-to"];
  if (replyTo !== undefined && replyTo.startsWith("actorwork:reply:")) {
    const record = { source, id, status: "done", value: message.text.toUpperCase() };
    await redis.call("PUBLISH", replyTo, JSON.stringify(record));
  }
  await settle(entry);
  return message.text !== "the end";
}

await join();
for (let isOn = true; isOn; ) {
  const found = await redis.call(
    "XREADGROUP", "GROUP", group, "consumer-1", "COUNT", 10, "BLOCK", 1000, "STREAMS", source, ">",
  );
  for (const [, entries] of found ?? []) {
    for (const [entry, values] of entries) isOn = (await handle(entry, values)) && isOn;
  }
}
redis.close();
