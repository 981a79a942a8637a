-- Adds what has left a shard of another layout (drain.lua), marks ids that one has seen, or notes what one knows of messages that
-- are over, in a new shard.
--
-- KEYS  the shard
-- ARGV  its prefix, what to do, and
--         'messages'  the shard that they left, then for each: its entry in `leaving`, kind, when it is due (a score), whether it
--                     held its key, how long its unique key is held (ms; ''), whether it may be replaced, its member, id, key,
--                     unique key, fields (packed), what is known of it (packed; '')
--         'seen'      for each key of marks: the end of its name, its value, for how long (ms)
--         'over'      for each key: its kind ('state', 'result' or 'claim'), the message id, for how long (ms), how many values
--                     follow, and those: field, value, ... of a state
--
-- `arrived` has, for each shard that messages left, the last entry that has arrived from there. They come in the order in which
-- they left, so what comes once more, or from a program that was slow, is passed over: each message arrives once.
--
-- No node reads the new shards before all has arrived. So a key is free for the first message that arrives, and the others wait
-- behind it, in their order.

local prefix = ARGV[1]
local KEPT_SECONDS = 604800 -- How long a program may be slow.

if ARGV[2] == 'seen' then
  local function both(one, other)
    local bytes = {}
    for b = 1, math.max(#one, #other) do
      bytes[b] = string.char(bit.bor(string.byte(one, b) or 0, string.byte(other, b) or 0))
    end
    return table.concat(bytes)
  end
  for i = 3, #ARGV, 3 do
    local mark, kept = prefix .. 'seen:' .. ARGV[i], tonumber(ARGV[i + 2])
    if ARGV[i + 1] == '' then
      redis.call('SET', mark, '', 'NX')
    else
      local known = redis.call('GET', mark)
      redis.call('SET', mark, known and both(known, ARGV[i + 1]) or ARGV[i + 1], 'KEEPTTL')
    end
    redis.call('PEXPIRE', mark, whole(math.max(kept, redis.call('PTTL', mark))))
  end
  return 0
end

-- Notes what was known of a message in the other shard: the hash of its life, kept for `ttl` ms. `place`: where it is now, if it
-- is not over.
local function note_life(id, flat, ttl, place)
  local key, named = prefix .. 'state:' .. id, by_name(flat)
  if #flat == 0 or lives.lacks(prefix) then
    return
  end
  local known = redis.call('HMGET', key, 'claim')[1]
  if known and known ~= named['claim'] then
    return -- Of a later message with this id.
  end
  if not known then -- Else another copy of the message has come before.
    redis.call('HSET', key, unpack(flat))
    redis.call('PEXPIRE', key, whole(ttl > 0 and ttl or lives.SECONDS * 1000))
    if tonumber(named['sent']) then
      lives.list(prefix, named['sent'], { id })
    end
  end
  if place and lives.place(prefix, id) then
    redis.call('HSET', key, 'place', place)
  end
end

if ARGV[2] == 'over' then
  local i = 3
  while i <= #ARGV do
    local kind, id, kept, last = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), i + 3 + tonumber(ARGV[i + 3])
    if kind == 'state' then
      note_life(id, { unpack(ARGV, i + 4, last) }, kept)
    else
      redis.call('SET', prefix .. kind .. ':' .. id, ARGV[last], 'NX', 'PX', whole(math.max(1, kept)))
    end
    i = last + 1
  end
  return 0
end

local from = ARGV[3]
local arrived = prefix .. 'arrived'
local last = redis.call('HGET', arrived, from) or '0-0'

local function hold_unique(unique, id, place, ttl, replaceable)
  local record = unique_record(prefix, unique)
  if record and record.id == id then
    record.places[#record.places + 1] = place
    record.place = ''
  else
    record = { id = id, places = { place }, place = replaceable == '1' and place or '' }
  end
  redis.call('SET', prefix .. 'unique:' .. unique, cjson.encode(record), 'PX', ttl)
end

local function note_what_is_known(id, life, place)
  if life == '' then
    return
  end
  local of = cmsgpack.unpack(life)
  note_life(id, of.state, of.ttl, place)
  if of.claim ~= '' then
    redis.call('SET', prefix .. 'claim:' .. id, of.claim, 'NX', 'PX', whole(math.max(1, of.claim_ttl)))
  end
  if of.cancelled ~= '' then
    redis.call('HSETNX', prefix .. 'cancelled', id, of.cancelled)
  end
end

local new = 0
for i = 4, #ARGV, 12 do
  local entry, kind, at, holds, ttl, replaceable, member, id, key, unique, packed, life = unpack(ARGV, i, i + 11)
  local ms, seq = string.match(entry, '^(%d+)%-(%d+)$')
  if not not_after(ms, seq, last) then
    local fields = cmsgpack.unpack(packed)
    if kind == 'dead' then
      redis.call('XADD', prefix .. 'dead', '*', unpack(fields))
      note_what_is_known(id, life)
    else
      local place, problem
      if kind == '~' and (holds == '' or not places_of(prefix, key)) then
        redis.call('ZADD', prefix .. 'delayed', at, member)
        redis.call('HSET', prefix .. 'delayed:messages', member, packed)
        place = '~' .. member
        if holds ~= '' then
          hold_key(prefix, key, place)
        end
      elseif kind == '' and holds == '' then
        local level = by_name(fields)['data'] and level_in(by_name(fields)) or nil
        local added
        added, problem = add(prefix, level, fields)
        place = added and place_at(level, added)
      else
        place, problem = enter(prefix, member, fields, true)
      end
      if not place then
        return redis.error_reply(problem)
      end
      if ttl ~= '' then
        hold_unique(unique, id, place, ttl, replaceable)
      end
      note_what_is_known(id, life, place)
    end
    last = entry
    redis.call('HSET', arrived, from, last)
    new = new + 1
  end
end
redis.call('EXPIRE', arrived, KEPT_SECONDS)
return new
