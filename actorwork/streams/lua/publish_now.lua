-- Keeps messages of one source that are due at once and whose ids share a mark; returns how many were new.
--
-- KEYS  the source, the mark
-- ARGV  for how many seconds the mark is kept ('' to leave its time as it is), then for each message: its bit, how many
--       values follow, and those: field, value, field, value, ...
--
-- Nearly every message comes this way, so there is nothing in here that could be left out. (publish.lua says what marks
-- are for.)

local stream, mark = KEYS[1], KEYS[2]
local new, i, last = 0, 2, #ARGV
while i <= last do
  local ending = i + 1 + ARGV[i + 1]
  if redis.call('SETBIT', mark, ARGV[i], 1) == 0 then
    local added = redis.pcall('XADD', stream, '*', unpack(ARGV, i + 2, ending))
    if added.err then
      redis.call('SETBIT', mark, ARGV[i], 0)
      return redis.error_reply(added.err)
    end
    new = new + 1
  end
  i = ending + 1
end
if ARGV[1] ~= '' then
  redis.call('EXPIRE', mark, ARGV[1])
end
return new
