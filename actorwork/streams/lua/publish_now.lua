-- Keeps messages of one source that are due at once and whose ids share a mark; returns how many were new.
--
-- KEYS  the source, the mark
-- ARGV  for how many seconds the mark is kept ('' to leave its time as it is), how many arguments say which bits of it are
--       meant, those (marks.lua), then for each message: how many values follow, and those: field, value, field, ...
--
-- Nearly every message comes this way, so there is nothing in here that could be left out.

local stream, mark = KEYS[1], KEYS[2]
local last_mark = 2 + ARGV[2]
local seen = mark_all(mark, 3, last_mark)
local new, which, i, last = 0, 0, last_mark + 1, #ARGV
while i <= last do
  local ending = i + ARGV[i]
  which = which + 1
  if not (seen and seen[which]) then
    local added = redis.pcall('XADD', stream, '*', unpack(ARGV, i + 1, ending))
    if added.err then
      unmark_from(mark, 3, last_mark, seen, which)
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
