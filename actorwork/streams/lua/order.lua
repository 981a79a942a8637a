-- What stands between a message and its stream. (A part: scripts begin with the parts they need.)
--
--   the source                  where messages of normal priority are read
--   priority:<level>            where others are read; `priorities` has the levels that were ever used
--   keys                        key -> the places of the message that has the key: JSON, usually one
--   key:<key>                   the members that wait for the key, in their order
--   waiting                     member -> its fields, packed; a member of a list that is not in here was cancelled
--   unique:<key>                the message that has a unique key: JSON of `id`, `copies`, `place`
--
-- Of all messages with one key only the first is in a stream, so that reading costs nothing. The next enters in the
-- script in which the one before leaves for good. A message may be in several places at once, where several groups
-- try it again each by itself; the key is free when none of them is left.
--
-- A place is `<entry id>` in the source, `<level>:<entry id>`, `~<member>` for what is held back, or `=<member>` for
-- what waits for its key. A member is the id of a message, for a retry with its group behind it.

local LEVELS = { critical = true, high = true, low = true }

-- The level of a message; nil for a normal one.
local function level_in(named)
  local level = named['priority']
  return level and LEVELS[level] and level or nil
end

local function source_of(prefix)
  return string.sub(prefix, 12, -3) -- actorwork:{<source>}:
end

local function stream_at(prefix, level)
  if level then
    return prefix .. 'priority:' .. level
  end
  return source_of(prefix)
end

-- The level of a stream of a source; nil for the source itself.
local function level_of(prefix, stream)
  if stream == source_of(prefix) then
    return nil
  end
  return string.sub(stream, #prefix + 10)
end

local function place_at(level, id)
  return level and level .. ':' .. id or id
end

-- Adds an entry to the stream of a level; returns its id, or nil and an error.
local function add(prefix, level, fields)
  local stream = stream_at(prefix, level)
  local id = redis.pcall('XADD', stream, '*', unpack(fields))
  if type(id) == 'table' then
    return nil, id.err
  end
  if level and redis.call('SADD', prefix .. 'priorities', level) == 1 then
    -- Every group of the source is to have it: the first one to settle it must not be taken for the only one.
    local groups = redis.pcall('XINFO', 'GROUPS', source_of(prefix))
    for _, flat in ipairs(groups.err and {} or groups) do
      redis.pcall('XGROUP', 'CREATE', stream, by_name(flat)['name'], '0')
    end
    redis.pcall('PUBLISH', 'actorwork:attend', stream) -- Nodes are to read it from now on.
  end
  return id
end

-- ----------------------------------------------------------------------------------------------------------- unique keys

local function unique_record(prefix, unique)
  local text = redis.call('GET', prefix .. 'unique:' .. unique)
  return text and cjson.decode(text) or nil
end

-- Changes the record of a message that has its unique key; leaves alone what has run out or is another's by now.
local function note_unique(prefix, unique, message_id, change)
  local record = unique_record(prefix, unique)
  if record and record.id == message_id then
    change(record)
    local key = prefix .. 'unique:' .. unique
    if record.copies > 0 then
      redis.call('SET', key, cjson.encode(record), 'XX', 'KEEPTTL')
    else
      redis.call('DEL', key)
    end
  end
end

-- Notes where a message lies that has its unique key.
local function moved(prefix, unique, message_id, place)
  note_unique(prefix, unique, message_id, function(record)
    -- One that was in hand is not to be replaced any more, wherever it lies now.
    if record.place ~= '' then
      record.place = place
    end
  end)
end

-- ------------------------------------------------------------------------------------------------------------------ keys

local function places_of(prefix, key)
  local text = redis.call('HGET', prefix .. 'keys', key)
  return text and cjson.decode(text) or nil
end

local function hold_key(prefix, key, place)
  local places = places_of(prefix, key) or {}
  places[#places + 1] = place
  redis.call('HSET', prefix .. 'keys', key, cjson.encode(places))
end

-- Lets the next message of a key enter, or sets the key free.
local function call_next(prefix, key)
  local list = prefix .. 'key:' .. key
  while true do
    local member = redis.call('LPOP', list)
    if not member then
      redis.call('HDEL', prefix .. 'keys', key)
      return
    end
    local packed = redis.call('HGET', prefix .. 'waiting', member)
    if packed then
      local fields = cmsgpack.unpack(packed)
      local named = by_name(fields)
      local level = level_in(named)
      local id = add(prefix, level, fields)
      if not id then
        -- There is no such stream at present. A place that does not exist is healed later, and this is tried again.
        redis.call('LPUSH', list, member)
        redis.call('HSET', prefix .. 'keys', key, cjson.encode({ '~' }))
        return
      end
      redis.call('HDEL', prefix .. 'waiting', member)
      redis.call('HSET', prefix .. 'keys', key, cjson.encode({ place_at(level, id) }))
      if named['unique'] then
        moved(prefix, named['unique'], named['id'], place_at(level, id))
      end
      return
    end
  end
end

-- A message with a key has left one of its places for good.
local function let_go(prefix, key, place)
  local places = places_of(prefix, key)
  for i, held in ipairs(places or {}) do
    if held == place then
      table.remove(places, i)
      if #places > 0 then
        redis.call('HSET', prefix .. 'keys', key, cjson.encode(places))
      else
        call_next(prefix, key)
      end
      return
    end
  end
end

-- Puts a message where it is read, or behind those that have its key. Returns its place, or nil and an error.
local function enter(prefix, member, fields)
  local named = #fields > 4 and by_name(fields) or {}
  if not named['data'] then
    named = {} -- What a foreign producer calls its fields is its own affair.
  end
  local key, level = named['key'], level_in(named)
  local places = key and places_of(prefix, key)
  local mine = nil
  for i, held in ipairs(places or {}) do
    if held == '~' .. member then
      mine = i -- A retry: it has had the key all the time.
    end
  end
  local place
  if places and not mine then
    redis.call('HSET', prefix .. 'waiting', member, cmsgpack.pack(fields))
    redis.call('RPUSH', prefix .. 'key:' .. key, member)
    place = '=' .. member
  else
    local id, problem = add(prefix, level, fields)
    if not id then
      return nil, problem
    end
    place = place_at(level, id)
    if key then
      places = places or {}
      places[mine or 1] = place
      redis.call('HSET', prefix .. 'keys', key, cjson.encode(places))
    end
  end
  if named['unique'] then
    moved(prefix, named['unique'], named['id'], place)
  end
  return place
end

-- One copy of a message is gone for good: what it had is free for the next.
local function leave(prefix, place, key, unique, message_id)
  if key then
    let_go(prefix, key, place)
  end
  if unique then
    note_unique(prefix, unique, message_id, function(record)
      record.copies = record.copies - 1
    end)
  end
end

-- ------------------------------------------------------------------------------------------------------------- dropping

-- Tells the outcome to whoever asked: kept for `ttl` ms ('' means not), published to `reply_to` ('' means not). A channel
-- that may not be published to must not keep a delivery from ending: what is kept can still be found.
local function tell_outcome(prefix, message_id, outcome, ttl, reply_to)
  if ttl ~= '' then
    redis.call('SET', prefix .. 'result:' .. message_id, outcome, 'PX', ttl)
  end
  if reply_to ~= '' then
    redis.pcall('PUBLISH', reply_to, outcome)
  end
end

-- The same for a message that no actor has in hand: who asked stands in its headers.
local function tell_end(prefix, message_id, headers, status, kind, reason)
  local good, asked = pcall(cjson.decode, headers or '{}')
  if not good or type(asked) ~= 'table' then
    return
  end
  local ttl, reply_to = asked['actorwork-result-ttl'], asked['actorwork-reply-to']
  if ttl or reply_to then
    local outcome = cjson.encode({
      source = source_of(prefix), id = message_id, status = status,
      failure = { type = kind, reason = reason, traceback = '' },
    })
    ttl = tonumber(ttl) and tonumber(ttl) > 0 and string.format('%.0f', math.max(1, tonumber(ttl) * 1000)) or ''
    tell_outcome(prefix, message_id, outcome, ttl, type(reply_to) == 'string' and reply_to or '')
  end
end

-- Takes away what lies at a place where nobody reads: held back, or waiting for its key. Returns its fields, or nil.
local function take_away(prefix, place)
  local kind, member = string.sub(place, 1, 1), string.sub(place, 2)
  local store = kind == '~' and prefix .. 'delayed:messages' or prefix .. 'waiting'
  local packed = redis.call('HGET', store, member)
  if not packed then
    return nil
  end
  redis.call('HDEL', store, member)
  if kind == '~' then
    redis.call('ZREM', prefix .. 'delayed', member)
  end
  return cmsgpack.unpack(packed)
end

-- Takes away an entry that no group was given yet. Returns its fields, or nil.
local function take_unread(prefix, place)
  local level, id = string.match(place, '^(%l+):(.*)$')
  id = id or place
  local stream = stream_at(prefix, level)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then
    return nil
  end
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  for _, flat in ipairs(groups) do
    if not_after(ms, seq, by_name(flat)['last-delivered-id']) then
      return nil
    end
  end
  local found = redis.call('XRANGE', stream, id, id)
  if not found[1] then
    return nil
  end
  redis.call('XDEL', stream, id)
  return found[1][2]
end

-- Drops a message at a place, if it still lies there and is in nobody's hand; returns whether it did. Whoever waits for
-- its outcome is told.
local function drop(prefix, place, kind, reason)
  local first = string.sub(place, 1, 1)
  local fields
  if first == '~' or first == '=' then
    fields = take_away(prefix, place)
  else
    fields = take_unread(prefix, place)
  end
  if not fields then
    return false
  end
  local named = by_name(fields)
  local message_id, headers = named['id'], named['headers']
  if not named['data'] then
    message_id, headers = named['actorwork:id'], named['actorwork:headers']
    named = {}
  end
  leave(prefix, place, named['key'], named['unique'], message_id)
  tell_end(prefix, message_id, headers, 'rejected', kind, reason)
  return true
end
