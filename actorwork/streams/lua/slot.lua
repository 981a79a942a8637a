-- One operation on the slots of a limit.
--
-- KEYS  the slots: a sorted set of their holders, by the time (ms) they run out
-- ARGV  take | free | count | list, the holder, the limit, the ttl in ms
--
-- Returns for take whether the holder has one now, for free whether it had one, for count how many are taken, for list
-- their holders.

local key, operation, holder, limit, ttl = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
if operation == 'free' then
  return redis.call('ZREM', key, holder)
elseif operation == 'count' then
  return redis.call('ZCARD', key)
elseif operation == 'list' then
  return redis.call('ZRANGE', key, 0, -1)
end
if not redis.call('ZSCORE', key, holder) and redis.call('ZCARD', key) >= limit then
  return 0
end
redis.call('ZADD', key, now + ttl, holder)
redis.call('PEXPIRE', key, math.max(redis.call('PTTL', key), ttl))
return 1
