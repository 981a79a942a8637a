-- Adds to the counts of a minute.
--
-- KEYS  the hashes of sources
-- ARGV  for how many seconds they are kept; then for each of them how many fields follow, and these: name, count

local at = 2
for _, hash in ipairs(KEYS) do
  local last = at + 2 * tonumber(ARGV[at])
  for field = at + 1, last, 2 do
    redis.call('HINCRBY', hash, ARGV[field], ARGV[field + 1])
  end
  redis.call('EXPIRE', hash, ARGV[1])
  at = last + 1
end
return true
