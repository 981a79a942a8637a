-- The counts of some minutes of a source.
--
-- KEYS  the hashes of the minutes
--
-- Returns for each of them its fields and counts in turns; nothing where there is none.

local found = {}
for index, hash in ipairs(KEYS) do
  local fields = redis.pcall('HGETALL', hash)
  found[index] = fields.err and {} or fields
end
return found
