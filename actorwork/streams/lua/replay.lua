-- Sends dead letters again, each only to the actor that failed. The letter is removed in the script in which its message
-- enters: a crash in between would lose the message or send it twice.
--
-- KEYS  the source, its dead letters
-- ARGV  the prefix of the source's keys, then for each: entry, headers (JSON or '')
--
-- Returns how many there were.

local prefix = ARGV[1]
local lacking = lacking_to_resend(prefix, KEYS[2])
if lacking then
  return redis.error_reply(lacking)
end
local count = 0
for i = 2, #ARGV, 2 do
  local letter = fields_of(KEYS[2], ARGV[i])
  if letter then
    local facts = by_name(letter)
    local fields = {}
    for f = 1, #letter, 2 do
      -- It is sent by hand, so the time at which it expired does not count any more.
      local is_too_late = letter[f] == 'm:expires' and facts['m:data']
      if string.sub(letter[f], 1, 2) == 'm:' and not is_too_late then
        fields[#fields + 1] = string.sub(letter[f], 3)
        fields[#fields + 1] = letter[f + 1]
      end
    end
    local problem = resend(prefix, KEYS[2], ARGV[i], facts, fields, ARGV[i + 1])
    if problem then
      return redis.error_reply(problem)
    end
    count = count + 1
  end
end
return count
