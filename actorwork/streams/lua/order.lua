-- The order in which messages enter a stream: priorities, keys, unique keys. (A part: scripts begin with the parts they
-- need.)
--
--   the source                  where messages of normal priority are read
--   priority:<level>            where others are read; `priorities` has the levels that were ever used
--   keys                        key -> the places of the message that has the key: JSON, usually one
--   key:<key>                   the members that wait for the key, in their order
--   waiting                     member -> its fields, packed; a member of a list without fields here was cancelled
--   unique:<key>                the message that has a unique key: JSON of `id`, `places`, and `place` while no group has it
--   claim:<id>                  proves that a message's result was asked for: the same text is in its field `claim`. As long as
--                               something is known of its life, that proves it (state.lua)
--
-- Of all messages with one key only the first is in a stream: readers need no check, and messages without keys pay nothing.
-- The next message enters in the same script in which the one before leaves for good. In two scripts, a crash in between
-- would leave the key taken with no message in the stream, and the messages behind it would wait forever.
--
-- A message may be in several places at once, when several groups retry it, each by itself. The key is free when none of its
-- places is left.
--
-- A place is `<entry id>` in the source, `<level>:<entry id>` in the stream of a level, `~<member>` for a delayed message, or
-- `=<member>` for one that waits for its key. A member is the id of a message, for a retry followed by its group.
--
-- Places are also the proof that an entry has the key that it names: a producer who may only XADD can name any key, and must
-- not free it or make others wait.
--
-- Cost: a message with a key takes a read and a write more when it enters, and a read, an LPOP and a delete when it leaves.
-- One that waits adds its fields and its place in the list, in and out. Records are small JSON: ids, no payloads.

local KIND_OF_FAILURE = { Expired = 'expired', Cancelled = 'cancelled', Lost = 'lost' }
local ended_steps = {} -- Steps of runs that this script has ended, one by one or many of a run (join.lua).

-- The step of a run that an outcome is that of, or nil.
local function flow_in(outcome)
  return string.match(outcome, '^{"flow":"([^"]+)"')
end

-- A field that may be empty in an entry of a foreign producer, where empty is none ('' is true in Lua); else nil.
local function filled(text)
  return text ~= '' and text or nil
end

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
    -- Create every group of ours in the new stream before any of them can read there. `ack_and_delete` deletes an entry
    -- that no other group needs: without their groups, the first group that settles would delete it for all. Foreign groups
    -- do not know this stream, and would keep its entries for ever.
    local groups = redis.pcall('XINFO', 'GROUPS', source_of(prefix))
    local ours = our_groups(stream)
    for _, flat in ipairs(groups.err and {} or groups) do
      local name = by_name(flat)['name']
      if ours[name] then
        redis.pcall('XGROUP', 'CREATE', stream, name, '0')
      end
    end
    redis.pcall('PUBLISH', 'actorwork:attend', stream) -- Nodes read the new stream from now on.
  end
  return id
end

-- ----------------------------------------------------------------------------------------------------------- unique keys

local function unique_record(prefix, unique)
  local text = redis.call('GET', prefix .. 'unique:' .. unique)
  return text and cjson.decode(text) or nil
end

-- Changes the record of a message that has its unique key at one of its places: a copy moves on from `place` to `to` (nil: it
-- has ended), or gets a second copy at `second`. Returns whether it has the key. A record that has expired, or that has not
-- this place (it belongs to another message by now, or the entry only names the key), stays as it is: neither a late
-- settlement nor a foreign entry must free the key of another message.
local function note_unique(prefix, unique, place, to, second)
  local record = unique_record(prefix, unique)
  for i, held in ipairs(record and record.places or {}) do
    if held == place then
      if second then
        -- It was in flight. From now on it must not be replaced, since it may have had effects.
        record.place = ''
        record.places[#record.places + 1] = second
      elseif to then
        record.places[i] = to
        record.place = record.place ~= '' and to or ''
      else
        table.remove(record.places, i)
      end
      local key = prefix .. 'unique:' .. unique
      if #record.places > 0 then
        redis.call('SET', key, cjson.encode(record), 'XX', 'KEEPTTL')
      else
        redis.call('DEL', key)
      end
      return true
    end
  end
  return false
end

-- The claim of a message that a run sends: proves to the run that an entry which names it is that message. The secret is the
-- run's, and in no entry.
local function step_claim(secret, message_id)
  return redis.sha1hex(secret .. '/' .. message_id)
end

-- Notes the place of a message that is a step of a run, so that it can be dropped there when the run is cancelled.
local function step_moved(prefix, named, place)
  -- The run is that of the id: in the headers of a retry, which are JSON of Python's, letters of most languages are escaped.
  local home, number = string.match(named['headers'] or '', '"actorwork%-flow": ?"([^"/]+)/[^"/]+/(%d+)"')
  local run = string.match(named['id'] or '', '^([^/]+)/')
  if home and run and not away.is(home) then -- A run elsewhere finds its messages by their lives.
    local at = 'actorwork:{' .. home .. '}:flow:' .. run
    local secret = redis.call('HGET', at, 'secret')
    if secret and named['claim'] == step_claim(secret, named['id']) then
      lives.part(prefix, named['id'])
      redis.call('HSET', at .. ':state', 'p' .. number, place)
    end
  end
end

-- Notes the place of a message, wherever it is noted.
local function moved(prefix, named, place)
  local claim = filled(named['claim'])
  if claim then
    step_moved(prefix, named, place)
    lives.moved(prefix, named['id'] or '', claim, place)
  end
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

-- Nearly all messages with a key are in one place, an entry. No id of an entry has a character that JSON escapes, so what the
-- record of such a key says is known without cjson.
local function is_entry(place)
  local first = string.byte(place)
  return first ~= 126 and first ~= 61 -- ~ and =
end

local function alone(place)
  return '["' .. place .. '"]'
end

local called = {} -- How many messages have entered each stream, by its name, since those before them have left.

-- Lets the next message of a key enter its stream, or frees the key. The loop skips messages that were cancelled while
-- they waited: their fields are gone, their members are still in the list (removing one there would cost the list's length).
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
        -- The source is no stream at present. The member goes back to the front, so the order is kept, and the key gets a
        -- place that does not exist: `heal` in maintain.lua finds it later and calls this again.
        redis.call('LPUSH', list, member)
        redis.call('HSET', prefix .. 'keys', key, cjson.encode({ '~' }))
        return
      end
      local stream = stream_at(prefix, level)
      called[stream] = (called[stream] or 0) + 1
      local place = place_at(level, id)
      redis.call('HDEL', prefix .. 'waiting', member)
      redis.call('HSET', prefix .. 'keys', key, alone(place))
      moved(prefix, named, place)
      if filled(named['unique']) then
        note_unique(prefix, named['unique'], '=' .. member, place)
      end
      return
    end
  end
end

-- A message with a key has left one of its places for good.
local function let_go(prefix, key, place)
  local text = redis.call('HGET', prefix .. 'keys', key)
  if is_entry(place) and text == alone(place) then
    call_next(prefix, key)
    return
  end
  local places = text and cjson.decode(text)
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

-- Adds a message without a key to the stream of its priority; returns as `enter` does.
local function enter_now(prefix, priority, fields)
  local level = priority and LEVELS[priority] and priority or nil
  local id, problem = add(prefix, level, fields)
  return id and place_at(level, id), problem
end

-- Adds a message to its stream, or puts it behind the message that has its key. Returns its place, or nil and an error.
--
-- A retry that was delayed has had its key all the time (its place `~<member>` is among the places of the key), so it must
-- not queue behind messages that wait for that very key: it would wait for itself.
--
-- Nothing has noted the place of a message that `is_new` to this script's caller, who does.
local function enter(prefix, member, fields, is_new)
  local named = #fields > 4 and by_name(fields) or {}
  if not named['data'] then
    named = {} -- A foreign producer's fields may happen to be called `key` or `priority`.
  end
  local key, level = filled(named['key']), level_in(named)
  local places = key and places_of(prefix, key)
  local mine = nil
  for i, held in ipairs(places or {}) do
    if held == '~' .. member then
      mine = i
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
  if filled(named['unique']) then
    note_unique(prefix, named['unique'], '~' .. member, place)
  end
  if not is_new then
    moved(prefix, named, place)
  end
  return place
end

-- One copy of a message is gone for good: frees what it held. The caller has removed the entry before, in the same script.
local function leave(prefix, place, key, unique)
  if filled(key) then
    let_go(prefix, key, place)
  end
  if filled(unique) then
    note_unique(prefix, unique, place)
  end
end

-- ------------------------------------------------------------------------------------------------------------- dropping

local REPLIES = 'actorwork:reply:'
local CLAIM_KEPT_MS = 86400000 -- Another group may still settle the message.

-- What an outcome says: how its message ended ('done', 'failed', 'rejected'), its value as it came, or the failure.
local function read_outcome(outcome)
  -- Strings before the value have their quotes escaped, so the first match is the field.
  local _, stop = string.find(outcome, ',"status":"done","value":', 1, true)
  if stop then
    return 'done', string.sub(outcome, stop + 1, -2)
  end
  local read = cjson.decode(outcome)
  return read.status, nil, type(read.failure) == 'table' and read.failure or nil
end

-- Stores an outcome for `ttl` ms ('' means not), and publishes it to `reply_to` ('' means not). Returns false if it was to be
-- stored and was not. PUBLISH may be forbidden for this channel (an ACL); that must not stop the settlement, and a stored
-- outcome can still be found. An outcome that begins with `flow` is that of a step of a run: its end is noted for join.lua.
--
-- The entry says where its outcome goes, and any program that may XADD to the source has written it. So nothing is published outside
-- the channels for replies, whose names are not to be guessed; and a result is stored for the message that asked for it when
-- it was kept, which its claim proves, and not for another entry under the same id.
--
-- If the message is tracked, its life ends; ARGV[first..last] says more of it. Of several groups the first ends it: an outcome
-- that comes after the end is published, but not stored.
local function store_outcome(prefix, message_id, outcome, ttl, claim, reply_to, is_failed, first, last)
  local is_claimed = true
  local flow = flow_in(outcome)
  local how, value, failure, is_known, ended
  if ttl ~= '' or flow then
    how, value, failure = read_outcome(outcome)
    if filled(claim) then
      is_known, ended = lives.finish(prefix, message_id, claim, how, failure, first or 1, last or 0)
    end
  end
  if ttl ~= '' and not ended then
    local noted = prefix .. 'claim:' .. message_id
    is_claimed = is_known or filled(claim) and redis.call('GET', noted) == claim or false
    if is_claimed then
      redis.call('SET', prefix .. 'result:' .. message_id, outcome, 'PX', ttl)
      -- The claim outlives the life: a dead letter may be sent again, and another group may still settle the message.
      if is_failed then
        redis.call('SET', noted, claim, 'EX', lives.SECONDS)
      elseif not is_known or #groups_found(source_of(prefix)) > 1 then
        redis.call('SET', noted, claim, 'PX', whole(math.max(CLAIM_KEPT_MS, tonumber(ttl))))
      end
    end
  end
  if string.sub(reply_to, 1, #REPLIES) == REPLIES then
    -- On a cluster, PUBLISH costs every one of its servers. For a client that listens at this one, this one will do.
    local near = KEYS.tag and string.match(reply_to, '^actorwork:reply:near:(%x+)$')
    local heard = near and redis.pcall('SPUBLISH', prefix .. 'reply:' .. near, outcome)
    if type(heard) ~= 'number' or heard == 0 then
      redis.pcall('PUBLISH', reply_to, outcome)
    end
  end
  if flow then
    if how == 'rejected' then
      how = failure and KIND_OF_FAILURE[failure.type] or how
    end
    local step_end = { how = how, value = value, failure = failure }
    ended_steps[#ended_steps + 1] = { flow = flow, id = message_id, ended = step_end, claim = claim }
  end
  return is_claimed
end

-- The same for a message that is not in flight: its headers have the address of the caller that waits.
local function reject_unread(prefix, message_id, headers, claim, status, kind, reason)
  local good, asked = pcall(cjson.decode, headers or '{}')
  if not good or type(asked) ~= 'table' or asked['actorwork-failed'] then -- The outcome of the last has been reported already.
    return
  end
  local ttl, reply_to, flow = asked['actorwork-result-ttl'], asked['actorwork-reply-to'], asked['actorwork-flow']
  if ttl or reply_to or flow then
    local outcome = cjson.encode({
      source = source_of(prefix), id = message_id, status = status,
      failure = { type = kind, reason = reason, traceback = '' },
    })
    if type(flow) == 'string' and not string.find(flow, '"', 1, true) then
      outcome = '{"flow":"' .. flow .. '",' .. string.sub(outcome, 2)
    end
    ttl = tonumber(ttl) and tonumber(ttl) > 0 and whole(math.max(1, tonumber(ttl) * 1000)) or ''
    reply_to = type(reply_to) == 'string' and reply_to or ''
    store_outcome(prefix, message_id, outcome, ttl, claim, reply_to, status == 'failed')
  end
end

-- Removes a message from a place where no group reads: delayed, or waiting for its key. Returns its fields, or nil.
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

-- Removes an entry that no group has read yet. Returns its fields, or nil. A group has read it if its last delivered id is
-- not before the entry; deleting it then would take a message out of the hands of a node.
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

-- Drops a message at a place, if it is still there and not in flight; returns whether it did. A caller that waits for its
-- outcome gets a rejection.
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
  leave(prefix, place, named['key'], named['unique'])
  reject_unread(prefix, message_id, headers, named['claim'], 'rejected', kind, reason)
  return true
end

-- ----------------------------------------------------------------------------------------------------------- cancelling

-- A message in flight cannot be taken from its node, so it is noted that the message is cancelled:
--
--   cancelled    tracked messages that were cancelled in flight, a hash: message id -> '1' (by force) or '0', then the reason
--
-- The nodes of the source look at it once a second, and when they are notified (maintain.lua). An entry that is taken over, and
-- an attempt that is to be tried again, ends there instead. The note goes with the life of the message (state.lua).
local cancels = {}

-- Why a message was cancelled, or nil.
function cancels.reason(prefix, message_id)
  local note = redis.call('HGET', prefix .. 'cancelled', message_id)
  return note and string.sub(note, 2)
end

-- Notes that a message is cancelled, wherever it is in flight; returns whether that is new, and the message not over.
function cancels.note(prefix, message_id, reason, is_forced)
  local place, before = lives.place(prefix, message_id)
  if not place or before and (not is_forced or string.sub(before, 1, 1) == '1') then
    return false
  end
  lives.part(prefix, message_id)
  local note = (is_forced and '1' or '0') .. reason
  redis.call('HSET', prefix .. 'cancelled', message_id, note)
  redis.call('HSET', prefix .. 'state:' .. message_id, 'cancelled', note)
  redis.pcall('PUBLISH', 'actorwork:attend', source_of(prefix)) -- Forbidden or lost: nodes look once a second.
  return true
end
