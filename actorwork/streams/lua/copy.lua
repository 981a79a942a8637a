-- Reads messages that are in no stream, or adds dead letters of another broker.
--
-- KEYS  the source
-- ARGV  the prefix of the source's keys, what to do, and
--         '='     (messages behind others with their key) the cursor of HSCAN, how many keys
--         '~'     (delayed ones) how many of the first to leave out, how many to read
--         'dead'  for each letter: what marks it, how long the mark is kept (s), how many fields follow, fields
--
-- Returns for '=' the cursor ('0': done) and the fields of each message, for '~' when each is due (ms) and its fields, for dead
-- how many were new.

local prefix, what = ARGV[1], ARGV[2]

if what == 'dead' then
  local new, i = 0, 3
  while i <= #ARGV do
    local last = i + 2 + tonumber(ARGV[i + 2])
    if redis.call('SET', prefix .. 'seen:' .. ARGV[i], '', 'NX', 'EX', ARGV[i + 1]) then
      redis.call('XADD', prefix .. 'dead', '*', unpack(ARGV, i + 3, last))
      new = new + 1
    end
    i = last + 1
  end
  return new
end

local function fields_of(store, member)
  local packed = redis.call('HGET', prefix .. store, member)
  return packed and cmsgpack.unpack(packed)
end

local found = {}
if what == '=' then
  local page = redis.call('HSCAN', prefix .. 'keys', ARGV[3], 'COUNT', ARGV[4])
  for i = 1, #page[2], 2 do
    for _, member in ipairs(redis.call('LRANGE', prefix .. 'key:' .. page[2][i], 0, -1)) do
      found[#found + 1] = fields_of('waiting', member) or nil
    end
  end
  return { page[1], found }
end
local members = redis.call('ZRANGE', prefix .. 'delayed', ARGV[3], ARGV[3] + ARGV[4] - 1, 'WITHSCORES')
for i = 1, #members, 2 do
  found[#found + 1] = { members[i + 1], fields_of('delayed:messages', members[i]) or {} }
end
return found
