-- Holds back messages of one source whose ids share a mark; returns how many were new.
--
-- KEYS  the source, the mark, its `delayed`, its `delayed:messages`
-- ARGV  for how many seconds the mark is kept ('' to leave its time as it is), how many arguments say which bits of it are
--       meant, those (marks.lua), then for each message: when it is due, how many values follow, and those: field, value,
--       field, ... (the first pair is its id)
--
-- Messages that are due by now enter the stream at once. All others are collected and written by one ZADD and one HSET.
-- The score decides the order in which they are promoted; `score` in clock.lua keeps the order of publishing within a
-- millisecond. A sorted set and a hash accept the messages whatever type the source has, so only XADD can fail here, and the
-- first XADD fails before anything was written.

local stream, mark = KEYS[1], KEYS[2]
local last_mark = 2 + ARGV[2]
-- Before the marks are set: below, only XADD can be refused for another reason.
if not (may('ZADD', KEYS[3], 0, '') and may('HSET', KEYS[4], '', '') and may('TIME')) then
  return redis.error_reply('NOPERM this user may not delay messages (ZADD, HSET, TIME) at ' .. stream)
end
if redis.pcall('TYPE', KEYS[3]).ok == 'string' then
  return redis.error_reply('WRONGTYPE nothing can be delayed at ' .. stream .. ': it is divided (drain.lua)')
end
local seen = mark_all(mark, 3, last_mark)
local now, rest = now_ms()
local dues, messages = {}, {}
local new, which, soonest, i, last = 0, 0, nil, last_mark + 1, #ARGV
while i <= last do
  local ending = i + 1 + ARGV[i + 1]
  which = which + 1
  if not (seen and seen[which]) then
    local due, at = ARGV[i], tonumber(ARGV[i])
    local fraction = 0
    if string.byte(due) == 43 then
      at, fraction = now + at, rest
    end
    if at <= now then
      local added = redis.pcall('XADD', stream, '*', unpack(ARGV, i + 2, ending))
      if added.err then
        unmark_from(mark, 3, last_mark, seen, 1) -- It is no stream: nothing was written before.
        return redis.error_reply(added.err)
      end
    else
      local count = #dues
      dues[count + 1], dues[count + 2] = score(at, fraction, which), ARGV[i + 3]
      messages[count + 1], messages[count + 2] = ARGV[i + 3], cmsgpack.pack({ unpack(ARGV, i + 2, ending) })
      if not soonest or at < soonest then
        soonest = at
      end
    end
    new = new + 1
  end
  i = ending + 1
end
if soonest then
  redis.call('ZADD', KEYS[3], unpack(dues))
  redis.call('HSET', KEYS[4], unpack(messages))
  announce(stream, soonest, now)
end
if ARGV[1] ~= '' then
  redis.call('EXPIRE', mark, ARGV[1])
end
return new
