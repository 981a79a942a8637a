-- Keeping a message once. (A part: scripts begin with the parts they need.)
--
-- The mark of an id is set first, and the message is written in the same script. If the message cannot be written (its
-- source is no stream), the mark is removed again. Otherwise a second try would find the mark and report success for a
-- message that does not exist.
--
-- The terms of a message are what is passed with it beside its fields:
--
--   ''            none: it is due at once
--   '+<ms>'       delayed for this time
--   '<ms>'        delayed until this moment (since the epoch)
--   '{...}'       JSON: `due` as above; `lifetime` (ms), which becomes the field `expires` unless `expires` is earlier;
--                 for a unique key `unique`, `ttl` (ms), `replace` (true to replace an unread message that has the key).
--                 Also for a message with a key, a priority or a claim to its result, which are fields; `keep` is how many
--                 ms to keep that.

local MARK_SECONDS = 86400

-- When a message is due, in the form of `now_ms`; nil for at once.
local function due_ms(due)
  if due == '' then
    return nil
  end
  local now, rest = now_ms()
  local at = tonumber(due)
  if string.sub(due, 1, 1) == '+' then
    at = now + at
  else
    rest = 0
  end
  if at <= now then
    return nil
  end
  return at, rest
end

-- The place of the delivery, which stays in flight, for which messages are published: one of them may take over its unique key.
local handed_over_by = nil

local held_back = 0 -- How many messages this script has delayed: keeps the order of those due in the same millisecond.

local function hold_back(prefix, member, at, rest, fields)
  redis.call('ZADD', prefix .. 'delayed', score(at, rest, held_back % 1000), member)
  held_back = held_back + 1
  redis.call('HSET', prefix .. 'delayed:messages', member, cmsgpack.pack(fields))
  announce(source_of(prefix), at, now_ms())
end

local function is_marked(mark, offset)
  if offset == '' then
    return redis.call('EXISTS', mark) == 1
  end
  return redis.call('GETBIT', mark, offset) == 1
end

-- Sets a mark; returns whether it was not set before. `touched` names the marks whose time was set before.
local function set_mark(mark, offset, touched)
  if offset == '' then
    return redis.call('SET', mark, '', 'NX', 'EX', MARK_SECONDS) and true
  end
  if redis.call('SETBIT', mark, offset, 1) == 1 then
    return false
  end
  if not touched[mark] then
    touched[mark] = true
    redis.call('EXPIRE', mark, MARK_SECONDS)
  end
  return true
end

-- Why nothing can be delayed here, or nil. A source that is divided has a string there (drain.lua): nothing may be marked as kept.
local function problem_of_delay(prefix)
  local lacking = lacks('delay of ' .. prefix, needs_of_delay, prefix)
  if not lacking and redis.pcall('TYPE', prefix .. 'delayed').ok == 'string' then
    return 'WRONGTYPE nothing can be delayed at ' .. source_of(prefix) .. ': it is divided'
  end
  return lacking
end

-- Asked before a mark is set: it must be possible to remove it again.
local function needs_of_mark(prefix)
  return {
    { 'SET', prefix .. 'seen:', '' }, { 'SETBIT', prefix .. 'seen:', 0, 1 }, { 'EXPIRE', prefix .. 'seen:', 1 },
    { 'DEL', prefix .. 'seen:' },
  }
end

-- See the top of this file: a mark must not outlive the failure to write its message.
local function unset_mark(mark, offset)
  if offset == '' then
    redis.call('DEL', mark)
  else
    redis.call('SETBIT', mark, offset, 0)
  end
end

-- Keeps a message with JSON terms. Returns as `keep` does.
--
-- A message that a delivery publishes while it goes on takes over its unique key, if it is to replace whatever has that: after the
-- delivery has ended it would be free, and the message would be kept.
--
-- The order matters. The mark is looked at before the unique key: a message that was kept before was accepted then, and a
-- repeated publish must report the same, whichever message has the key now. The message that is replaced is dropped
-- before the mark is set, because `drop` may fail (the message is in flight by now), and then nothing may have changed.
-- The record of the unique key is written last, since it needs the place of the message.
local function keep_on_terms(prefix, mark, offset, terms, first, last, touched)
  local wanted = cjson.decode(terms)
  local message_id = ARGV[first + 1]
  local lacking = lacks('mark of ' .. prefix, needs_of_mark, prefix)
    or lacks('order of ' .. prefix, needs_of_order, prefix)
    or wanted.due and problem_of_delay(prefix)
  if lacking then
    return false, lacking
  end
  local unique = wanted.unique
  if unique then
    if is_marked(mark, offset) then
      return false, nil, message_id
    end
    local record = unique_record(prefix, unique)
    if record and record.id ~= message_id then
      local reason = 'replaced by ' .. message_id
      local is_handed_over = wanted.replace and handed_over_by and #record.places == 1 and record.places[1] == handed_over_by
      if not is_handed_over
        and not (wanted.replace and record.place ~= '' and drop(prefix, record.place, 'Cancelled', reason)) then
        return false, nil, record.id
      end
    end
  end
  if not set_mark(mark, offset, touched) then
    return false, nil, message_id
  end
  local fields = { unpack(ARGV, first, last) }
  local at, rest = due_ms(wanted.due or '')
  local claim = by_name(fields)['claim']
  if wanted.lifetime then
    fields[#fields + 1] = 'expires'
    fields[#fields + 1] = whole(math.min(now_ms() + wanted.lifetime, wanted.expires or math.huge))
  end
  local place, problem
  if at then
    hold_back(prefix, message_id, at, rest, fields)
    place = '~' .. message_id
  else
    place, problem = enter(prefix, message_id, fields)
    if not place then
      unset_mark(mark, offset)
      return false, problem
    end
  end
  if claim then
    local delay = at and math.ceil((at - now_ms()) / 1000) or 0
    if not (wanted.keep and lives.begin(prefix, message_id, claim, whole(wanted.keep), whole(now_ms()), place, delay)) then
      redis.call('SET', prefix .. 'claim:' .. message_id, claim, 'EX', whole(lives.SECONDS + delay))
    end
  end
  if unique then
    local record = { id = message_id, places = { place }, place = place }
    redis.call('SET', prefix .. 'unique:' .. unique, cjson.encode(record), 'PX', wanted.ttl)
  end
  return true, nil, message_id
end

-- Keeps the message whose fields are ARGV[first..last] (the first pair is its id), unless its mark is set or another
-- message has its unique key. Returns whether it was new, an error if the source is no stream, and for a message with a
-- unique key the id of the message that has the key. Terms that are not JSON need no look at the message: a mark and an
-- XADD, as in publish_now.lua.
local function keep(prefix, mark, offset, terms, first, last, touched)
  if string.byte(terms) == 123 then
    return keep_on_terms(prefix, mark, offset, terms, first, last, touched)
  end
  local lacking = lacks('mark of ' .. prefix, needs_of_mark, prefix)
    or terms ~= '' and problem_of_delay(prefix)
  if lacking then
    return false, lacking
  end
  if not set_mark(mark, offset, touched) then
    return false
  end
  if terms ~= '' then
    local at, rest = due_ms(terms)
    if at then
      hold_back(prefix, ARGV[first + 1], at, rest, { unpack(ARGV, first, last) })
      return true
    end
  end
  local added = redis.pcall('XADD', source_of(prefix), '*', unpack(ARGV, first, last))
  if type(added) == 'table' and added.err then
    unset_mark(mark, offset)
    return false, added.err
  end
  return true
end

-- Keeps messages of one source, each of which has in ARGV, from `first` on: which of KEYS is its mark, the bit or '', its
-- terms, how many values follow, and those: field, value, field, value, ... Returns how many were new, or nil and an error.
local function keep_all(prefix, first)
  local touched = {}
  local new = 0
  local i = first
  local last = #ARGV
  while i <= last do
    local ending = i + 3 + ARGV[i + 3]
    local added, problem = keep(prefix, KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], i + 4, ending, touched)
    if added then
      new = new + 1
    elseif problem then
      return nil, problem
    end
    i = ending + 1
  end
  return new
end
