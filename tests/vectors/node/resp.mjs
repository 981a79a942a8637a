// The least client of Redis that the two programs need: commands in turn over one connection, and messages of channels.

import net from "node:net";

export class Redis {
  constructor(path) {
    this.socket = net.createConnection({ path });
    this.buffer = Buffer.alloc(0);
    this.waiting = [];
    this.onMessage = () => {};
    this.socket.on("data", (chunk) => {
      this.buffer = Buffer.concat([this.buffer, chunk]);
      this.#read();
    });
    this.socket.on("close", () => {
      for (const { reject } of this.waiting.splice(0)) reject(new Error("the connection is closed"));
    });
  }

  call(...args) {
    const parts = args.map((arg) => Buffer.from(String(arg)));
    const frame = [Buffer.from(`*${parts.length}\r\n`)];
    for (const part of parts) frame.push(Buffer.from(`$${part.length}\r\n`), part, Buffer.from("\r\n"));
    this.socket.write(Buffer.concat(frame));
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  close() {
    this.socket.end();
  }

  #read() {
    for (;;) {
      const found = parse(this.buffer, 0);
      if (found === null) return;
      const [reply, end] = found;
      this.buffer = this.buffer.subarray(end);
      if (Array.isArray(reply) && reply[0] === "message") {
        this.onMessage(reply[1], reply[2]);
        continue;
      }
      const { resolve, reject } = this.waiting.shift();
      if (reply instanceof Error) reject(reply);
      else resolve(reply);
    }
  }
}

// Returns a reply and where it ends, or null while a part of it is still to come.
function parse(buffer, start) {
  const line = buffer.indexOf("\r\n", start);
  if (line < 0) return null;
  const head = buffer.toString("utf8", start + 1, line);
  let at = line + 2;
  switch (String.fromCharCode(buffer[start])) {
    case "+":
      return [head, at];
    case "-":
      return [new Error(head), at];
    case ":":
      return [Number(head), at];
    case "$": {
      const length = Number(head);
      if (length < 0) return [null, at];
      if (buffer.length < at + length + 2) return null;
      return [buffer.toString("utf8", at, at + length), at + length + 2];
    }
    case "*": {
      if (Number(head) < 0) return [null, at];
      const items = [];
      for (let i = 0; i < Number(head); i++) {
        const found = parse(buffer, at);
        if (found === null) return null;
        items.push(found[0]);
        at = found[1];
      }
      return [items, at];
    }
    default:
      throw new Error(`not a reply of Redis: ${head}`);
  }
}
