-- Keeps messages that come from the outbox of another source, in its order (streams/forwarding.py).
--
-- KEYS  the source, its `delayed`, its `delayed:messages`, then the marks
-- ARGV  the prefix of the source's keys, the source of the outbox; then for each message: its entry in the outbox, which of KEYS
--       is its mark, the bit or '', its terms, how many values follow, and those
--
-- Returns how many were new.

local prefix, from = ARGV[1], ARGV[2]
local touched, new, last = {}, 0, nil
local i = 3
while i <= #ARGV do
  local entry, ending = ARGV[i], i + 4 + ARGV[i + 4]
  if not forwarded.is_done(from, entry) then
    local added, problem =
      keep(prefix, KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2], ARGV[i + 3], i + 5, ending, touched)
    if added then
      new = new + 1
    elseif problem then
      if last then
        forwarded.note(from, last)
      end
      return redis.error_reply(problem) -- Those before it are kept.
    end
  end
  last = entry
  i = ending + 1
end
forwarded.note(from, last)
return new
