-- Takes messages out of a shard, in their order, and puts them into its `leaving`, a stream, from which they are moved to the
-- shards of another layout (streams/dividing.py). Replaces a shard that is empty by strings, for good.
--
-- KEYS  the shard
-- ARGV  its prefix, how many messages to take, whether to replace it once it is empty (0 or 1), then the consumers whose nodes
--       are dead
--
-- Returns how many messages were taken, how many are in flight at nodes that live, how much is left in the shard, and whether it
-- is replaced.
--
-- Messages of one key leave in the order in which they would be handled: those that hold the key (in a stream, or retries that
-- are delayed), and, in the script in which the last of these leaves, all that wait behind them. So every sender to this key
-- meanwhile either waits behind them, and leaves with them, or finds the key free, and leaves later.
--
-- An entry that only some of several groups need becomes one message for each of them. Groups that are no actor's count for
-- nothing here: the stream that they read is deleted, whether they have read it or not.
--
-- What is known of a tracked message goes along with it: its life and its claim (state.lua). The life stays here, too, until it is
-- there, so it can be looked at all the time; meanwhile its place is MOVING, where it cannot be cancelled (cancel.lua).
--
-- A new entry has been delivered to nobody, so how often processes have died with a message does not move with it. It kills as
-- many as `max_crashes` allows once more for each time that an operator moves its source, which is bounded, and seldom.
--
-- A script takes as long as `most` messages do, and as all that waits behind one key: that has to leave at once, however much
-- it is, and the server does nothing else meanwhile.
--
-- Once replaced, nothing can be written here: XADD and ZADD are refused (WRONGTYPE), and senders look where the shard is by now.
-- `unique:<key>` stays until then, so that no message takes a unique key whose message is on its way. The strings stay for ever: a
-- program may have read the old layout long ago.

local source, prefix, most, may_replace = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local DIVIDED = 'divided'
local STREAMS = { prefix .. 'priority:critical', prefix .. 'priority:high', source, prefix .. 'priority:low' }
local leaving = prefix .. 'leaving'
local MOST_VALUES = 7000 -- How many values an entry may have: arrive.lua passes all of them to one XADD, and Lua 8000 at most.

if redis.call('TYPE', source).ok == 'string' then
  return { 0, 0, 0, 1 }
end

local free = { released = true }
for i = 4, #ARGV do
  free[ARGV[i]] = true
end
local taken, in_flight = 0, 0
local too_large -- The first entry that no script can add elsewhere.

-- What goes along with a message: how long its unique key is held (ms; '' if it has none), and whether it may be replaced.
local function unique_of(named, place)
  local unique = filled(named['unique'])
  local record = unique and unique_record(prefix, unique)
  for _, held in ipairs(record and record.places or {}) do
    if held == place then
      return whole(math.max(1, redis.call('PTTL', prefix .. 'unique:' .. unique))), record.place ~= '' and '1' or ''
    end
  end
  return '', ''
end

-- What is known of a message whose result was asked for, packed; '' if nothing is.
local function life_of(id, named)
  if not filled(named['claim']) then
    return ''
  end
  local state, claim = prefix .. 'state:' .. id, prefix .. 'claim:' .. id
  local flat = not lives.lacks(prefix) and redis.call('HGETALL', state) or {}
  local of = {
    state = flat, ttl = #flat > 0 and redis.call('PTTL', state) or 0, claim = redis.call('GET', claim) or '',
    claim_ttl = redis.call('PTTL', claim), cancelled = redis.call('HGET', prefix .. 'cancelled', id) or '',
  }
  if #flat == 0 and of.claim == '' then
    return ''
  elseif #flat > 0 and lives.place(prefix, id) then
    redis.call('HSET', state, 'place', lives.MOVING)
  end
  return cmsgpack.pack(of)
end

local function log(kind, id, named, fields, at, holds, unique, replaceable, member)
  redis.call(
    'XADD', leaving, '*', 'kind', kind, 'id', id, 'key', filled(named['key']) or '', 'unique',
    filled(named['unique']) or '', 'at', at, 'holds', holds, 'ttl', unique, 'replaceable', replaceable, 'member', member,
    'fields', cmsgpack.pack(fields), 'life', life_of(id, named)
  )
  taken = taken + 1
end

-- The fields of a message of a foreign producer are its message; its id is that of its entry, and must stay it.
local function ours(fields, id)
  local named = by_name(fields)
  if named['data'] then
    return named, named['id'] or id, fields
  end
  local own = named['actorwork:id']
  if own then
    return {}, own, fields
  end
  local copy = { unpack(fields) }
  copy[#copy + 1] = 'actorwork:id'
  copy[#copy + 1] = id
  return {}, id, copy
end

local function log_waiting(key)
  local list = prefix .. 'key:' .. key
  for _, member in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local packed = redis.call('HGET', prefix .. 'waiting', member)
    if packed then
      local fields = cmsgpack.unpack(packed)
      local named = by_name(fields)
      local unique, replaceable = unique_of(named, '=' .. member)
      log('=', named['id'] or member, named, fields, '', '', unique, replaceable, member)
      redis.call('HDEL', prefix .. 'waiting', member)
    end
  end
  redis.call('DEL', list)
  redis.call('HDEL', prefix .. 'keys', key)
end

-- Whether a message holds its key at a place.
local function holds(named, place)
  local key = filled(named['key'])
  for _, held in ipairs(key and places_of(prefix, key) or {}) do
    if held == place then
      return true
    end
  end
  return false
end

-- A message has left a place at which it held its key.
local function let_key_go(key, place)
  local kept = {}
  for _, held in ipairs(places_of(prefix, key) or {}) do
    if held ~= place then
      kept[#kept + 1] = held
    end
  end
  if #kept > 0 then
    redis.call('HSET', prefix .. 'keys', key, cjson.encode(kept))
  else
    log_waiting(key)
  end
end

-- For which groups an entry has to be delivered: nil if it is in flight. '' stands for all of them.
local function needing(stream, groups, actors, id, place)
  local needing, count = {}, 0
  for _, group in ipairs(groups) do
    local name = group['name']
    if actors[name] then
      count = count + 1
      local pending = group['pending'] > 0 and redis.call('XPENDING', stream, name, id, id, 1)[1]
      if pending and not free[pending[2]] then
        return nil
      end
      -- On a cluster it may be settled, or not, with others in other slots (streams/joint.py).
      if pending and redis.call('HEXISTS', prefix .. 'held:' .. name, place) == 1 then
        return nil
      end
      if redis.call('SISMEMBER', beside(stream) .. 'acked:' .. name, id) == 0 then
        needing[#needing + 1] = name
      end
    end
  end
  if count == #needing then
    return { '' }
  end
  return needing
end

local function forget_entry(stream, groups, id)
  for _, group in ipairs(groups) do
    if group['pending'] > 0 then
      redis.call('XACK', stream, group['name'], id)
    end
  end
  delete_entries(stream, groups, { id })
end

local function drain_stream(stream)
  local level = level_of(prefix, stream)
  local groups, actors = groups_of(stream), our_groups(stream)
  local from = '-'
  while taken < most do
    local page = redis.call('XRANGE', stream, from, '+', 'COUNT', 100)
    for _, entry in ipairs(page) do
      local id = entry[1]
      if taken >= most then
        return
      end
      if #entry[2] > MOST_VALUES then
        too_large = { stream, id, #entry[2] / 2 }
        return
      end
      local needed = needing(stream, groups, actors, id, place_at(level, id))
      if not needed then
        in_flight = in_flight + 1
      else
        local named, message_id, fields = ours(entry[2], id)
        local place = place_at(level, id)
        local is_holder = holds(named, place)
        local unique, replaceable = unique_of(named, place)
        for _, group in ipairs(needed) do
          local only = named['group'] or by_name(entry[2])['actorwork:group']
          if group == '' then
            log('', message_id, named, fields, '', is_holder and '1' or '', unique, replaceable, message_id)
          elseif not only or only == group then
            local headers = named['headers'] or by_name(entry[2])['actorwork:headers'] or ''
            local for_one = readdressed(fields, message_id, headers, group)
            log('', message_id, named, for_one, '', is_holder and '1' or '', unique, '', message_id .. '/' .. group)
          end
        end
        forget_entry(stream, groups, id)
        if is_holder then
          let_key_go(named['key'], place)
        end
      end
    end
    if #page < 100 then
      return
    end
    from = '(' .. page[#page][1]
  end
end

local function drain_delayed()
  while taken < most do
    local page = redis.call('ZRANGE', prefix .. 'delayed', 0, math.min(99, most - taken - 1), 'WITHSCORES')
    if #page == 0 then
      return
    end
    for i = 1, #page, 2 do
      local member, score_of = page[i], page[i + 1]
      local fields = take_away(prefix, '~' .. member)
      redis.call('ZREM', prefix .. 'delayed', member) -- Also one without fields.
      if fields then
        local named, message_id, own = ours(fields, member)
        local place = '~' .. member
        local is_holder = holds(named, place)
        local unique, replaceable = unique_of(named, place)
        log('~', message_id, named, own, score_of, is_holder and '1' or '', unique, replaceable, member)
        if is_holder then
          let_key_go(named['key'], place)
        end
      end
    end
  end
end

-- Keys whose holder is nowhere (`heal` in maintain.lua would find them): what waits for them leaves.
local function drain_keys()
  for _, key in ipairs(redis.call('HKEYS', prefix .. 'keys')) do
    log_waiting(key)
  end
end

local function drain_letters()
  while taken < most do
    local page = redis.call('XRANGE', prefix .. 'dead', '-', '+', 'COUNT', math.min(100, most - taken))
    for _, entry in ipairs(page) do
      local facts = by_name(entry[2])
      local named = {}
      for _, name in ipairs(facts['m:data'] and { 'key', 'unique', 'claim' } or {}) do
        named[name] = facts['m:' .. name]
      end
      log('dead', facts['id'] or entry[1], named, entry[2], '', '', '', '', '')
      redis.call('XDEL', prefix .. 'dead', entry[1])
    end
    if #page < 100 then
      return
    end
  end
end

for _, stream in ipairs(STREAMS) do
  if not too_large and redis.call('EXISTS', stream) == 1 then
    drain_stream(stream)
  end
end
if too_large then
  local at, id, count = unpack(too_large)
  return redis.error_reply(
    'TOOLARGE the entry ' .. id .. ' of ' .. at .. ' has ' .. whole(count) .. ' fields, and a script can move '
    .. whole(MOST_VALUES / 2) .. ': let it be handled (resume its source), or delete it (XDEL ' .. at .. ' ' .. id .. ')'
  )
end
if taken < most then
  drain_delayed()
end
local left = redis.call('ZCARD', prefix .. 'delayed')
for _, stream in ipairs(STREAMS) do
  left = left + redis.call('XLEN', stream)
end
if left == 0 then
  drain_keys()
end
if taken < most then
  drain_letters()
end
left = left + redis.call('XLEN', prefix .. 'dead') + redis.call('XLEN', prefix .. 'outbox')
if may_replace and left == 0 then
  for _, key in ipairs(STREAMS) do
    redis.call('SET', key, DIVIDED)
  end
  redis.call('SET', prefix .. 'delayed', DIVIDED)
  redis.call('DEL', prefix .. 'delayed:messages', prefix .. 'dead', prefix .. 'waiting', prefix .. 'keys')
  redis.pcall('PUBLISH', 'actorwork:attend', source)
  return { taken, in_flight, 0, 1 }
end
return { taken, in_flight, left, 0 }
