-- One operation on a shared value.
--
-- KEYS  the value: a hash of data, version, fence (the newest token it was written under) and until (ms; of its ttl)
-- ARGV  set | add | delete, the token it is written under ('' for none), its ttl in ms ('' for none), then
--       set   the data, the version it must have now ('' for any, 0 for none)
--       add   how much, what to begin with
--
-- Returns {'stale', the newest token} where the token is an older one, else
--   set      {'kept', version}, or {'other'} where the version is another
--   add      {'kept', data}, or {'other'} where there is no number
--   delete   {'kept', whether there was one}
--
-- A value that was written under a token outlives its data by a day: if the token were forgotten with the data, a delayed
-- write under an older token would be accepted.

local key, operation, fence, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local day = 86400000

local kept = redis.call('HMGET', key, 'data', 'version', 'fence', 'until')
local data, version, newest, ends = kept[1], tonumber(kept[2] or 0), tonumber(kept[3] or 0), tonumber(kept[4] or 0)
if ends > 0 and ends <= now then
  data = false
end
if fence ~= '' then
  if tonumber(fence) < newest then
    return { 'stale', kept[3] }
  end
  newest = tonumber(fence)
end

local function whole(number)
  return string.format('%.0f', number)
end

local function keep(new)
  local next_version = math.max(version + 1, time[1] * 1000000 + time[2])
  redis.call('HSET', key, 'data', new, 'version', whole(next_version), 'fence', whole(newest))
  if ttl == '' then
    redis.call('HDEL', key, 'until')
    redis.call('PERSIST', key)
  else
    redis.call('HSET', key, 'until', whole(now + ttl))
    redis.call('PEXPIRE', key, newest > 0 and ttl + day or ttl)
  end
  return whole(next_version)
end

if operation == 'set' then
  local wanted = ARGV[5]
  if wanted ~= '' and tonumber(wanted) ~= (data and version or 0) then
    return { 'other' }
  end
  return { 'kept', keep(ARGV[4]) }
elseif operation == 'add' then
  local before, by = data or ARGV[5], ARGV[4]
  local sum = tonumber(before) and tonumber(before) + tonumber(by)
  if not sum or math.abs(sum) >= 9007199254740992 then
    return { 'other' }
  end
  local is_whole = string.find(before, '^%-?%d+$') and string.find(by, '^%-?%d+$')
  local new = is_whole and whole(sum) or string.format('%.17g', sum)
  keep(new)
  return { 'kept', new }
end
if newest > 0 then
  redis.call('HSET', key, 'version', whole(version), 'fence', whole(newest))
  redis.call('HDEL', key, 'data', 'until')
  redis.call('PEXPIRE', key, day)
else
  redis.call('DEL', key)
end
return { 'kept', data and 1 or 0 }
