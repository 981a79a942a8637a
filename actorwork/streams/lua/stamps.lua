-- Returns which states of entities the entries meet that a read has just brought; it is sent along with the read.
--
-- KEYS  the stream
-- ARGV  the prefix of its source's keys, the group, the consumer, the entry after which the read began, and of how many entries
--       more is returned than nothing
--
-- Returns for each entry that this consumer has had since: its id, and the stamp of the state of its key, '' if there is none.
-- What cannot be told is left out: the node asks for those states by itself.

local prefix, group, consumer, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local near = prefix .. 'entity:' .. group .. ':'
local page = redis.pcall('XPENDING', KEYS[1], group, '(' .. ARGV[4], '+', most + 1, consumer)
local found = {}
if page.err or #page > most then
  return found -- To ask for many at once costs no more than this.
end
for _, entry in ipairs(page) do
  local id = entry[1]
  local read = redis.pcall('XRANGE', KEYS[1], id, id)
  local fields = read[1] and read[1][2] or {}
  local key, is_ours = nil, false
  for i = 1, #fields, 2 do
    if fields[i] == 'key' then
      key = fields[i + 1]
    elseif fields[i] == 'data' then
      is_ours = true
    end
  end
  if key and is_ours then
    local stamp = redis.pcall('HGET', near .. key, 'n')
    if type(stamp) ~= 'table' then
      found[#found + 1], found[#found + 2] = id, stamp or ''
    end
  end
end
return found
