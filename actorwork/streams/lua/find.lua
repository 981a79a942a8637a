-- Looks for a message by its id, to be shown.
--
-- KEYS  the streams of its source
-- ARGV  the prefix of the source's keys, the id, how many entries of each stream are looked at, the oldest first
--
-- Returns {where, fields, when it is due (ms since the epoch)}, or nil.

local prefix, message_id, most = ARGV[1], ARGV[2], ARGV[3]

local packed = redis.pcall('HGET', prefix .. 'waiting', message_id)
if type(packed) == 'string' then
  return { 'key', cmsgpack.unpack(packed) }
end
packed = redis.pcall('HGET', prefix .. 'delayed:messages', message_id)
local due = redis.pcall('ZSCORE', prefix .. 'delayed', message_id)
if type(packed) == 'string' and type(due) == 'string' then
  return { 'delayed', cmsgpack.unpack(packed), due }
end
for _, stream in ipairs(KEYS) do
  local entries = redis.pcall('XRANGE', stream, '-', '+', 'COUNT', most)
  for _, entry in ipairs(entries.err and {} or entries) do
    local fields = entry[2]
    for at = 1, #fields, 2 do
      if fields[at] == 'id' and fields[at + 1] == message_id then
        return { 'ready', fields }
      end
    end
  end
end
return nil
