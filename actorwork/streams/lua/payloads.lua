-- Reads the payloads of open tracked messages, wherever they are.
--
-- KEYS  the source
-- ARGV  the prefix of the source's keys, then the ids
--
-- Returns {payload, type, key, unique key, headers} for each, with nothing for what it does not have, and {} for one that is over or
-- not found at its place.

local prefix = ARGV[1]
local found = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local place = lives.place(prefix, id)
  local kind, fields = string.sub(place or '', 1, 1), nil
  if kind == '~' or kind == '=' then
    local packed = redis.call('HGET', prefix .. (kind == '~' and 'delayed:messages' or 'waiting'), string.sub(place, 2))
    fields = packed and cmsgpack.unpack(packed)
  elseif kind ~= '' then
    local level, entry = string.match(place, '^(%l+):(.*)$')
    entry = entry or place
    local entries = redis.pcall('XRANGE', stream_at(prefix, level), entry, entry)
    fields = not entries.err and entries[1] and entries[1][2]
  end
  local named = fields and by_name(fields) or {}
  -- Of several groups that retry a message, the place of one is known.
  found[#found + 1] = named['id'] == id and {
    named['data'] or false, named['type'] or false, named['key'] or false, named['unique'] or false, named['headers'] or false
  } or {}
end
return found
