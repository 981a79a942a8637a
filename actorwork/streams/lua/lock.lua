-- One operation on a lock.
--
-- KEYS  the lock: a hash of token, owner and until (ms)
-- ARGV  take | keep | free, the owner, the ttl in ms, and the list of the locks that are held (empty on a cluster, which has
--       none)
--
-- Returns for take the token, or nil if another owner has the lock; for keep and free whether this owner had it. A lock that
-- was not kept in time stays its owner's until another one takes it. The token outlives the lock by a day: a new owner must
-- get a greater token than every owner before, or the fence of a shared value would let an old owner write.
--
-- The list, by the time until which each is held, is for people alone: a user who may not write it takes locks as any other.

local key, operation, owner, ttl, list = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local name = string.sub(key, string.len('actorwork:lock:') + 1)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local day = 86400000

local function whole(number)
  return string.format('%.0f', number)
end

local function note()
  redis.call('PEXPIRE', key, ttl + day)
  if list ~= '' then
    redis.pcall('ZADD', list, whole(now + ttl), name)
    redis.pcall('ZREMRANGEBYSCORE', list, '-inf', whole(now - day))
  end
end

local lock = redis.call('HMGET', key, 'token', 'owner', 'until')
local is_mine = lock[2] == owner
if operation == 'take' then
  local is_held = lock[2] and tonumber(lock[3]) > now
  if is_held and not is_mine then
    return nil
  end
  local token = lock[1]
  if not is_mine then
    token = whole(math.max(tonumber(token or 0) + 1, time[1] * 1000000 + time[2]))
  end
  redis.call('HSET', key, 'token', token, 'owner', owner, 'until', whole(now + ttl))
  note()
  return token
end
if not is_mine then
  return 0
end
if operation == 'keep' then
  redis.call('HSET', key, 'until', whole(now + ttl))
  note()
else
  redis.call('HDEL', key, 'owner', 'until')
  redis.call('PEXPIRE', key, day)
  if list ~= '' then
    redis.pcall('ZREM', list, name)
  end
end
return 1
