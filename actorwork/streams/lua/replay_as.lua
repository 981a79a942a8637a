-- Sends a dead letter again with another message in it, only to the actor that failed: as replay.lua.
--
-- KEYS  the source, its dead letters
-- ARGV  the prefix of the source's keys, entry, payload, type ('' for none), headers (JSON or '')
--
-- Returns whether it was there.

local prefix, entry, payload, kind, headers = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local REPLACED = { id = true, data = true, type = true, headers = true, group = true, expires = true }

local lacking = lacking_to_resend(prefix, KEYS[2])
if lacking then
  return redis.error_reply(lacking)
end

local letter = fields_of(KEYS[2], entry)
if not letter then
  return 0
end
local facts = by_name(letter)
local fields = { 'id', facts['id'], 'data', payload }
if kind ~= '' then
  fields[5], fields[6] = 'type', kind
end
if facts['m:data'] then
  -- Its key and its priority stay. All fields of a foreign producer's entry are its message, which is replaced as a whole.
  for f = 1, #letter, 2 do
    local name = string.sub(letter[f], 3)
    if string.sub(letter[f], 1, 2) == 'm:' and not REPLACED[name] then
      fields[#fields + 1] = name
      fields[#fields + 1] = letter[f + 1]
    end
  end
end
local problem = resend(prefix, KEYS[2], entry, facts, fields, headers)
if problem then
  return redis.error_reply(problem)
end
return 1
