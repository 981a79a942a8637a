-- Settles a batch of plain acks of one source and group, as nearly all are: settle.lua, without what only others need.
--
-- KEYS  the stream, the record of the last batch
-- ARGV  as settle.lua, up to the plain acks

ack_and_delete(stream, group, acked)
local answer = { number, fenced, refused, {} }
redis.call('SET', record, cmsgpack.pack(answer), 'PX', RECORD_MS)
return answer
