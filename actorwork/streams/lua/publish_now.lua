-- Keeps messages of one source that are due at once and whose ids share a mark; returns how many were new.
--
-- KEYS  the source, the mark
-- ARGV  for how many seconds the mark is kept ('' to leave its time as it is), how many arguments say which bits of it are
--       meant, those (marks.lua), then for each message: how many values follow, and those: field, value, field, ...
--
-- Nearly every message comes this way, so this script has only what it needs: one BITFIELD for the marks of all messages,
-- one XADD for each. A single message takes 8 µs of the server here (INFO commandstats). Where the id cannot have been sent
-- before, a transaction of SETBIT and XADD is cheaper (`Publisher.publish_new`).
--
-- Marks are set before the first XADD. If an XADD fails, the messages before it are kept, with their marks, and the marks
-- from the failed one on are removed, so that sending the batch again keeps exactly the missing ones.

local stream, mark = KEYS[1], KEYS[2]
local last_mark = 2 + ARGV[2]
local seen = mark_all(mark, 3, last_mark) -- nil when all are new, which is nearly always.
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
