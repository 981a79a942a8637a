-- Lists delayed messages of a source, the one that is due next first.
--
-- KEYS  its `delayed`, its `delayed:messages`
-- ARGV  how many
--
-- Returns {when it is due (ms since the epoch), fields} for each.

local found = {}
local members = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
for i = 1, #members, 2 do
  local packed = redis.call('HGET', KEYS[2], members[i])
  if packed then
    found[#found + 1] = { members[i + 1], cmsgpack.unpack(packed) }
  end
end
return found
