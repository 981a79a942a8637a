-- Which handlers of keys wait for others: see policy/waits.py.
--
--   waits:<key>     what the handlers of a key wait for, a hash: message id -> JSON of the fence of the delivery that asks
--                   (stream, group, consumer, entry, count), where the message goes (source, key), until when (ms)
--
-- KEYS  the source of the key
-- ARGV  what is to be done, the prefix of the source's keys, the key, a message; then:
--         note     stream, group, consumer, entry id, delivery count, the source and the key of the message, for how many ms, how
--                  many there may be, the message that is handled. Returns 1 if it is noted: the delivery is ours.
--         forget   nothing more.
--         behind   nothing more. Returns what the handler of the key waits for, for which the message waits, one of this key:
--                  message handled, message, source, key, message handled, ... Nothing if it neither waits for its turn nor is
--                  what is handled.
--
-- A note whose delivery is not that node's any more, as the node died, is passed over, and goes with its time.

local what, prefix, key, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local at = prefix .. 'waits:' .. key

local function is_in_hand(stream, group, consumer, entry, count)
  local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1, consumer)
  return not pending.err and pending[1] and pending[1][4] == tonumber(count)
end

if what == 'forget' then
  return redis.call('HDEL', at, message)
elseif what == 'note' then
  local ttl = tonumber(ARGV[12])
  if not is_in_hand(ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]) then
    return 0
  end
  if redis.call('HEXISTS', at, message) == 0 and redis.call('HLEN', at) >= tonumber(ARGV[13]) then
    return 0
  end
  redis.call('HSET', at, message, cjson.encode({
    fence = { ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9] }, source = ARGV[10], key = ARGV[11], till = now_ms() + ttl,
    handled = ARGV[14],
  }))
  if redis.call('PTTL', at) < ttl then
    redis.call('PEXPIRE', at, whole(ttl))
  end
  return 1
end
local found = {}
local waits = redis.call('HEXISTS', prefix .. 'waiting', message) == 1
local now, notes = now_ms(), redis.call('HGETALL', at)
for i = 1, #notes, 2 do
  local note = cjson.decode(notes[i + 1])
  if note.till > now and (waits or note.handled == message) and is_in_hand(unpack(note.fence)) then
    for _, value in ipairs({ note.handled, notes[i], note.source, note.key }) do
      found[#found + 1] = value
    end
  end
end
return found
