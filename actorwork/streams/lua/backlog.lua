-- How many messages of a source are to be handled: ready, in flight, or behind others with their key.
--
-- KEYS  the streams of the source
-- ARGV  the prefix of its keys, the group that is meant ('' for all of ours)
--
-- Entries stay in a stream until every group has had them, so those that have ended for us and wait for others do not count.

local prefix, group = ARGV[1], ARGV[2]
local count = redis.call('HLEN', prefix .. 'waiting')
for _, stream in ipairs(KEYS) do
  local ended = group == '' and 'kept' or 'acked:' .. group
  -- Entries that were deleted by hand may still be noted there, for some seconds.
  count = count + math.max(0, redis.call('XLEN', stream) - redis.call('SCARD', beside(stream) .. ended))
end
return count
