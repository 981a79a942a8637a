-- Keeps a message that has a unique key; returns the id of the message that has the key now: its own, or another's.
-- Sent again after a lost reply, it finds the mark and returns its own id once more.
--
-- KEYS  the source, the mark
-- ARGV  the prefix of the source's keys, the bit of the mark or '', its terms (publish.lua), then field, value, field, ...
--       (the first pair is its id)

local _, problem, holder = keep(ARGV[1], KEYS[2], ARGV[2], ARGV[3], 4, #ARGV, {})
if problem then
  return redis.error_reply(problem)
end
return holder or ARGV[5]
