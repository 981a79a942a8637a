-- Drops messages of a source that no node has been given, or counts them.
--
-- KEYS  the source
-- ARGV  the prefix of the source's keys, where to look, where to begin there, how many to look at, the reason ('': count only)
--         '='             those that wait behind others with their key; from a cursor of HSCAN ('0': the beginning)
--         '~'             those that are delayed; from how many of them are left as they are
--         a level, or ''  those of the stream of a priority, or of the source itself, that no group has read; after an entry id
--                         ('': the first)
--
-- Returns how many there were (and are gone now, if there was a reason), how many of them are steps of runs, and where to go on
-- ('': it is done).
--
-- Each is dropped as one that is cancelled: those that wait for its outcome are notified, its life ends, its keys go on to the next
-- messages, and the run that it is a step of draws its conclusions.

local prefix, where, from, most, reason = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local count, steps, left = 0, 0, 0

local function see(place, fields)
  if reason ~= '' and not drop(prefix, place, 'Cancelled', reason) then
    left = left + 1
    return
  end
  count = count + 1
  local named = by_name(fields)
  if string.find(named['headers'] or '', '"actorwork%-flow":') then
    steps = steps + 1
  end
end

local function stored(name, member)
  local packed = redis.call('HGET', prefix .. name, member)
  return packed and cmsgpack.unpack(packed) or {}
end

local on = ''
if where == '=' then
  local page = redis.call('HSCAN', prefix .. 'waiting', from, 'COUNT', most)
  for i = 1, #page[2], 2 do
    see('=' .. page[2][i], cmsgpack.unpack(page[2][i + 1]))
  end
  on = page[1] ~= '0' and page[1] or ''
elseif where == '~' then
  local first = tonumber(from)
  local members = redis.call('ZRANGE', prefix .. 'delayed', first, first + most - 1)
  for _, member in ipairs(members) do
    see('~' .. member, stored('delayed:messages', member))
  end
  if #members == most then
    on = whole(first + (reason == '' and most or left))
  end
else
  local level = where ~= '' and where or nil
  local stream = stream_at(prefix, level)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    local read = from
    for _, flat in ipairs(groups) do
      local last = by_name(flat)['last-delivered-id']
      local ms, seq = string.match(last, '^(%d+)%-(%d+)$')
      if read == '' or not not_after(ms, seq, read) then
        read = last
      end
    end
    local entries = redis.call('XRANGE', stream, read == '' and '-' or '(' .. read, '+', 'COUNT', most)
    for _, entry in ipairs(entries) do
      see(place_at(level, entry[1]), entry[2])
    end
    if #entries == most then
      on = entries[most][1]
    end
  end
end
join_all()
return { count, steps, on }
