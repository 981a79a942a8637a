-- Maintains sources for one group: promotes due messages, takes over released entries and those of dead nodes.
--
-- KEYS  the lease of this node (any other key where ARGV has the dead nodes), then the streams: sources, and those of their priorities
-- ARGV  group, consumer, prefix of leases (on a cluster, where leases are in other slots, '!' and the names of dead nodes, each
--       followed by a line feed: streams/survey.py), name of the consumer that owns released entries, how many deliveries are
--       wanted in all, how many of those above normal priority, after how many crashes a message is dead, from how many
--       on it is a suspect, the actor's title, how many suspects may be taken over (0 or 1); then for each stream: the
--       prefix of its source's keys, and where the search for keys without a message continues ('' for not now); then how
--       many dead letters to keep, and for how many ms, and whether failures are reported to the actor (0 or 1)
--
-- Returns nil if this node holds no lease (it may take nothing), else for each stream: ms until the next message is due
-- (-1 if none is delayed), whether there are more entries to take over, whether the group is missing, the deliveries taken
-- over as {entry id, delivery count, from whom, fields}, the dead letters made as {message id, crashes}, how many entries
-- are pending under our name, those taken over included, the levels of priority that were ever used, where the search
-- for keys continues, what could not be done ('' for nothing), whether there are suspects that may not be taken now, how many
-- entries were given back to the group, the foreign groups that keep entries which have ended for us, the entries that
-- are lost (id, owner, id, owner, ...), the messages of the source that were cancelled in flight, each with its note (order.lua),
-- and how many nodes of the group there are (0 for a stream of a priority).
--
-- Who may take what. The lease of this node is checked first, in this script: a node whose lease is gone would take
-- entries that another node then takes from it, in a circle. An entry is taken only from the consumer `released`, or from a
-- consumer whose lease does not exist. Comparison and XCLAIM happen in one script, so two nodes never take the same entry.
-- Idle times play no part: a handler may run for hours.
--
-- Crashes. A delivery counts as a crash when the lease of its owner is gone. All messages in flight at that node are
-- counted, also those that only waited in a mailbox. So a message that was in flight at `alone_from` crashes, a suspect, is
-- taken over only by a node that has nothing else in flight (streams/isolation.py): from then on only the guilty one gets to
-- the limit. The count is Redis' own delivery count, which is set in the XCLAIM itself: a node that dies right after this
-- script has counted it.
--
-- Batches over several slots of a cluster. What is held for one is not taken over until it is decided whether that is settled
-- (streams/joint.py).
--
-- Lost entries. An entry that was deleted by hand is left pending at its owner: its message is to be told to be lost, which takes
-- a search (streams/lost.py), and until then a node that dies must not make it forgotten. So whether an entry exists is known
-- before XCLAIM, which drops those that do not. One node searches for a group: it is noted at the stream as `lost:<group>`.
--
-- One node does this for all of a group, about once a second (look.lua). If it leaves something that it may not take, has no
-- room for, or cannot do, it does not note that the source is maintained, so all others see it, too.
--
-- Cost, for each stream: one XPENDING, one EXISTS for each other node that has something pending, and two ZRANGEBYSCORE and
-- an SMEMBERS for each source. All consumers are looked at to remove those of dead nodes, every few seconds, and less often if
-- they are many (`remove_dead`); and every few seconds the entries (`sweep`). The script blocks the server, so every part
-- is bounded (PROMOTED_AT_ONCE, EXPIRED_AT_ONCE, KEYS_AT_ONCE, SWEPT_AT_ONCE, PAGE, and the room in the mailboxes); what is left is done by
-- the next call.

local group, consumer, leases, released = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local room, urgent_room = tonumber(ARGV[5]), tonumber(ARGV[6])
local limit, alone_from, actor = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local suspects = tonumber(ARGV[10])
local most_dead, dead_for, is_told = ARGV[#ARGV - 2], ARGV[#ARGV - 1], ARGV[#ARGV] == '1'
local PROMOTED_AT_ONCE = 500
local EXPIRED_AT_ONCE = 100
local KEYS_AT_ONCE = 100
local PAGE = 1000
local SWEEP_EVERY = 5000 -- ms
local SWEPT_AT_ONCE = 200
local SWEPT_BYTES = 500000
local LOST_AT_ONCE = 1000
local HELD_LOOKED_AT = 20 -- Suspects that may not be taken: no node must wait for one that is lost, nor read all of them each time.
local SEARCHED_FOR = 10000 -- ms for which a node searches; it says so again every second
local CLEAN_EVERY = 5000 -- ms
local CLEAN_EACH = 10 -- ms more for each consumer: a look at one takes the server some microseconds
local TENDED_FOR = 3600000 -- ms for which the notes are kept
local KEPT_LONG = 60000 -- ms after which a foreign group that has not had an entry is named

local dead_nodes = nil
if string.byte(leases) == 33 then
  dead_nodes = {}
  for name in string.gmatch(string.sub(leases, 2), '([^\n]*)\n') do
    dead_nodes[name] = true
  end
elseif redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end

local function is_gone(name)
  if dead_nodes then
    return dead_nodes[name] == true
  end
  return redis.call('EXISTS', leases .. name) == 0
end

local now = now_ms()
local lost = {} -- Entries of the stream at hand that were deleted by hand while they were pending, each with its owner.
local trouble = '' -- Of the stream at hand. An error would end the script, and with it every other take-over.

-- A message that entered and could not be removed from the delayed ones would enter again every second.
local function needs_of_promoting(prefix)
  local needs = needs_of_order(prefix)
  needs[#needs + 1] = { 'HDEL', prefix .. 'delayed:messages', '' }
  needs[#needs + 1] = { 'ZREM', prefix .. 'delayed', '' }
  return needs
end

-- Moves due messages into their streams; returns ms until the next one is due, -1 for none. The message enters before it is
-- removed from the delayed ones. Both happen in this script, but if one of them cannot enter (its source is no stream at
-- present), it and all after it stay delayed, so their order is kept.
local function promote(prefix)
  local delayed, messages = prefix .. 'delayed', prefix .. 'delayed:messages'
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', whole(now), 'LIMIT', 0, PROMOTED_AT_ONCE)
  local lacking = #due > 0 and lacks('promoting of ' .. prefix, needs_of_promoting, prefix)
  if lacking then
    trouble = lacking
  elseif #due > 0 then
    local packed = redis.call('HMGET', messages, unpack(due))
    local done = {}
    for i, member in ipairs(due) do
      if packed[i] then
        local place, problem = enter(prefix, member, cmsgpack.unpack(packed[i]))
        if not place then
          trouble = problem
          break
        end
      end
      done[i] = member
    end
    if #done > 0 then
      redis.call('HDEL', messages, unpack(done))
      redis.call('ZREM', delayed, unpack(done))
    end
  end
  local soonest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if soonest[2] then
    return math.max(0, math.ceil(tonumber(soonest[2])) - now)
  end
  return -1
end

-- Takes the entities off the list whose states have expired (entities.lua); returns whether there are more.
local function unlist_expired(prefix)
  local list, expiring = prefix .. 'entities:' .. group, prefix .. 'expiring:' .. group
  local due = redis.pcall('ZRANGEBYSCORE', expiring, '-inf', whole(now), 'LIMIT', 0, EXPIRED_AT_ONCE)
  if due.err or #due == 0 then
    return false
  end
  local gone, done = {}, {}
  for _, key in ipairs(due) do
    local left = redis.pcall('PTTL', prefix .. 'entity:' .. group .. ':' .. key)
    if left == -2 then
      gone[#gone + 1] = key
    end
    if left == -2 or left == -1 then
      done[#done + 1] = key
    elseif type(left) == 'number' then -- It was given more time by hand.
      redis.pcall('ZADD', expiring, whole(now + left + 1), key)
    end
  end
  if #gone > 0 then
    redis.pcall('ZREM', list, unpack(gone))
  end
  local taken = #done > 0 and redis.pcall('ZREM', expiring, unpack(done))
  return #due == EXPIRED_AT_ONCE and type(taken) == 'number' and taken > 0
end

-- The group that is maintained. What it has pending is as before this script took anything over.
local function maintained(groups)
  for _, one in ipairs(groups) do
    if one['name'] == group then
      return one
    end
  end
end

-- An entry whose message has ended, and that could not be noted or deleted, would end again with every sweep.
local function needs_of_sweep(stream, prefix)
  local needs = needs_of_ack(stream, group)
  for _, more in ipairs({ needs_of_sharing(stream, group), needs_of_leaving(prefix) }) do
    for _, one in ipairs(more) do
      needs[#needs + 1] = one
    end
  end
  return needs
end

-- Looks after entries of a stream, in their order, that exist. What should not be is mended:
--
--   our group has read it, has not settled it, and it is not pending      it was taken away by hand: it is pending again,
--                                                                        released, so a node takes it over
--   our group has settled it, and another one that has not is destroyed   its message has ended: its key is freed, and the
--                                                                        entry is deleted unless a foreign group needs it
--   foreign groups needed it, and have had it by now                      it is deleted
--
-- Returns how many entries were given back, and how many ended or were deleted; `keeping` gets the foreign groups that keep
-- old ones.
local function look_after(stream, prefix, level, ids, keeping)
  local groups = groups_of(stream)
  local mine = maintained(groups)
  if not mine or #ids == 0 or lacks('sweep of ' .. stream, needs_of_sweep, stream, prefix) then
    return 0, 0 -- A missing group is created again, and then all of its entries are delivered.
  end
  local most = 2 * #ids + 10
  local pending, is_complete = {}, true
  if mine['pending'] > 0 then
    local page = redis.call('XPENDING', stream, group, ids[1], ids[#ids], most)
    is_complete = #page < most -- Entries that were deleted by hand may displace others.
    for _, one in ipairs(page) do
      pending[one[1]] = true
    end
  end
  local acked_here = redis.call('SMISMEMBER', beside(stream) .. 'acked:' .. group, unpack(ids))
  local settled, given_back, ended = {}, 0, 0
  for i, id in ipairs(ids) do
    if has_read(mine, id) and not pending[id] and (is_complete or not is_pending(stream, mine, id)) then
      if acked_here[i] == 1 then
        settled[#settled + 1] = id
      else
        redis.call('XCLAIM', stream, group, released, 0, id, 'FORCE', 'RETRYCOUNT', 0, 'JUSTID')
        given_back = given_back + 1
      end
    end
  end
  local needed = needed_by_others(stream, groups, group, settled)
  local free = {}
  for _, id in ipairs(settled) do
    local by = needed[id]
    if by ~= true then
      if redis.call('SISMEMBER', beside(stream) .. 'kept', id) == 0 then
        local named = by_name(fields_of(stream, id) or {})
        if named['data'] then
          leave(prefix, place_at(level, id), named['key'], named['unique'])
        end
        ended = ended + 1
      end
      if not by then
        free[#free + 1] = id
      else
        redis.call('SADD', beside(stream) .. 'kept', id)
        if now - string.match(id, '^%d+') > KEPT_LONG then
          keeping[by] = true
        end
      end
    end
  end
  delete_entries(stream, groups, free)
  return given_back, math.max(ended, #free)
end

-- Looks after all entries that our group has read, some at a time. `swept` has when the next look is due and where it begins,
-- so one node of the group looks, and not each.
--
-- With one group, nothing is to be done if there are as many entries as are pending or unread: this is the usual case, and
-- needs no look at any of them. (6.2 does not tell how many are unread.)
--
-- Returns whether there is more to do at once, and how many entries were given back.
local function sweep(stream, prefix, level, keeping)
  local record, acked = beside(stream) .. 'swept:' .. group, beside(stream) .. 'acked:' .. group
  local at, cursor = string.match(redis.call('GET', record) or '', '^(%d+) (.*)$')
  if at and now < tonumber(at) then
    return false, 0
  end
  local groups = groups_of(stream)
  local mine = maintained(groups)
  trouble = mine and lacks('sweep of ' .. stream, needs_of_sweep, stream, prefix) or ''
  if not mine or trouble ~= '' then
    return false, 0
  end
  -- Entries that were deleted by hand are still noted as settled. A few at random: if some are stale, the next look follows.
  local stale = 0
  for _, id in ipairs(redis.call('SRANDMEMBER', acked, 20)) do
    if not fields_of(stream, id) then
      redis.call('SREM', acked, id)
      redis.call('SREM', beside(stream) .. 'kept', id)
      stale = stale + 1
    end
  end
  local unread = mine['lag']
  local given_back, ended, ids = 0, 0, {}
  if not (#groups == 1 and unread and redis.call('XLEN', stream) == mine['pending'] + unread) then
    local last = mine['last-delivered-id']
    local first = redis.call('XRANGE', stream, cursor or '-', last, 'COUNT', 1)[1]
    if first then
      -- Their fields come with them, so large entries come in small pages.
      local size = 1
      for _, value in ipairs(first[2]) do
        size = size + #value
      end
      local count = math.max(1, math.min(SWEPT_AT_ONCE, math.floor(SWEPT_BYTES / size)))
      for i, entry in ipairs(redis.call('XRANGE', stream, cursor or '-', last, 'COUNT', count)) do
        ids[i] = entry[1]
      end
      given_back, ended = look_after(stream, prefix, level, ids, keeping)
      cursor = #ids == count and '(' .. ids[count] or nil
    else
      cursor = nil
    end
  else
    cursor = nil
  end
  local is_busy = given_back + ended + stale > 0
  local next_at = (is_busy or cursor) and now or now + SWEEP_EVERY
  redis.call('SET', record, whole(next_at) .. ' ' .. (cursor or '-'), 'PX', 3600000)
  return is_busy, given_back
end

-- Whether the message that holds a key still exists at a place.
local function is_there(prefix, place)
  if string.sub(place, 1, 1) == '~' then
    return redis.call('ZSCORE', prefix .. 'delayed', string.sub(place, 2))
  end
  local level, id = string.match(place, '^(%l+):(.*)$')
  local stream = stream_at(prefix, level)
  id = id or place
  local found = redis.pcall('XRANGE', stream, id, id)
  if found.err or not found[1] then
    return false
  end
  local _, ended = look_after(stream, prefix, level, { id }, {})
  return ended == 0
end

-- Frees keys whose message was deleted by hand (XDEL, a destroyed group): without this, the messages behind it would wait
-- forever. It goes through all keys of a source, KEYS_AT_ONCE per call, so its cost does not grow with their number.
local function heal(prefix, cursor)
  local found = redis.call('HSCAN', prefix .. 'keys', cursor, 'COUNT', KEYS_AT_ONCE)
  for i = 1, #found[2], 2 do
    local key = found[2][i]
    for _, place in ipairs(cjson.decode(found[2][i + 1])) do
      if not is_there(prefix, place) then
        let_go(prefix, key, place)
      end
    end
  end
  return found[1]
end

-- Makes a dead letter of a message that crashed too many processes. The dead letter and the outcome are written before the
-- entry is acknowledged, and the key is freed last: `leave` lets the next message of the key enter.
local function dead_letter_crasher(stream, prefix, id, crashes, fields)
  -- A dead letter whose entry could not be acknowledged would be written again every second.
  local lacking = lacks('ack of ' .. stream, needs_of_ack, stream, group)
    or #groups_found(stream) > 1 and lacks('sharing of ' .. stream, needs_of_sharing, stream, group)
    or lacks('dead letter of ' .. stream, needs_of_dead_letter, stream, prefix)
    or lacks('leaving of ' .. prefix, needs_of_leaving, prefix)
  if lacking then
    trouble = lacking
    return nil
  end
  local named = by_name(fields)
  local id_name, headers_name = names_in(fields)
  local message_id, headers = named[id_name] or id, named[headers_name]
  local good, known = pcall(cjson.decode, headers or '{}')
  local attempt = good and type(known) == 'table' and known['actorwork-attempt'] or 1
  local reason = crashes .. ' processes died while they handled this message'
  add_dead_letter(prefix, {
    'actor', actor, 'group', group, 'error', 'Crashed', 'reason', reason, 'traceback', '',
    'attempt', tostring(attempt), 'at', whole(now), 'entry', id, 'id', message_id,
  }, fields, most_dead, whole(now - dead_for))
  local failure = is_told and cjson.encode({ type = 'Crashed', reason = reason, traceback = '' })
  local problem = is_told and tell_failure(stream, fields, message_id, group, failure)
  if problem then
    trouble = 'the hook of ' .. actor .. ' for a failed message is not called: ' .. problem
  end
  reject_unread(prefix, message_id, headers, named['data'] and named['claim'], 'failed', 'Crashed', reason)
  if #ack_and_delete(stream, group, { id }) > 0 and named['data'] then
    leave(prefix, place_at(level_of(prefix, stream), id), named['key'], named['unique'])
  end
  return { message_id, crashes }
end

-- Ends an entry whose message was cancelled while it was in flight; returns whether it was.
local function end_cancelled(stream, prefix, id, fields)
  local named = by_name(fields)
  local reason = named['data'] and named['id'] and cancels.reason(prefix, named['id'])
  if not reason then
    return false
  end
  local lacking = lacks('ack of ' .. stream, needs_of_ack, stream, group)
    or #groups_found(stream) > 1 and lacks('sharing of ' .. stream, needs_of_sharing, stream, group)
    or lacks('leaving of ' .. prefix, needs_of_leaving, prefix)
  if lacking then
    trouble = lacking
    return true -- It stays where it is.
  end
  reject_unread(prefix, named['id'], named['headers'], named['claim'], 'rejected', 'Cancelled', reason)
  if #ack_and_delete(stream, group, { id }) > 0 then
    leave(prefix, place_at(level_of(prefix, stream), id), named['key'], named['unique'])
  end
  return true
end

-- The messages of a source that were cancelled in flight, with the notes of that. A note without its message goes: that entry
-- was deleted by hand, and its life has been forgotten since.
local function cancelled_in(prefix, is_healing)
  local notes = redis.call('HGETALL', prefix .. 'cancelled')
  for i = 1, is_healing and math.min(#notes, 2 * KEYS_AT_ONCE) or 0, 2 do
    if redis.call('EXISTS', prefix .. 'state:' .. notes[i]) == 0 then
      redis.call('HDEL', prefix .. 'cancelled', notes[i])
    end
  end
  return notes
end

-- Takes over entries of one consumer that is dead, or of `released`. Returns whether there are more, and whether there are
-- suspects that may not be taken now. The page is at least 1, also without room: `more` must be known, and a message past
-- its limit becomes a dead letter whether there is room or not. A suspect that may be taken needs no room, and may be behind
-- others.
local function take_over(stream, prefix, owner, pending_in_all, is_dead, is_urgent, taken, dead)
  local more, held, held_here, seen, from = 0, 0, 0, 0, '-'
  local are_cancelled = redis.call('EXISTS', prefix .. 'cancelled') == 1
  local batched = KEYS.tag and redis.call('EXISTS', prefix .. 'held:' .. group) == 1 and prefix .. 'held:' .. group
  local level = level_of(prefix, stream)
  local wanted = is_urgent and urgent_room or room
  local most = suspects > 0 and PAGE or math.max(1, math.min(wanted, PAGE))
  repeat
    local page = redis.call('XPENDING', stream, group, from, '+', most, owner)
    local passed_over = 0 -- Lost entries stay pending: those behind them must not wait for them.
    for _, pending in ipairs(page) do
      local id, count = pending[1], pending[4]
      local crashes = count
      local is_suspect = crashes >= alone_from
      local looks = are_cancelled or is_dead and count >= limit
      if is_suspect and suspects <= 0 then
        held_here = held_here + 1
        looks = looks or held_here <= HELD_LOOKED_AT
      else
        looks = looks or is_suspect or wanted > 0
      end
      local fields = looks and fields_of(stream, id)
      if batched and redis.call('HEXISTS', batched, place_at(level, id)) == 1 then
        passed_over = passed_over + 1
      elseif looks and not fields then
        passed_over = passed_over + 1
        if #lost < 2 * LOST_AT_ONCE then
          lost[#lost + 1] = id
          lost[#lost + 1] = owner
        end
      elseif are_cancelled and end_cancelled(stream, prefix, id, fields) then
        -- It is not run again.
      elseif is_dead and count >= limit then
        -- If that fails, the entry stays where it is.
        local good, letter = pcall(dead_letter_crasher, stream, prefix, id, crashes, fields)
        if not good then
          trouble = type(letter) == 'table' and letter.err or tostring(letter)
        elseif letter then
          dead[#dead + 1] = letter
        end
      elseif is_suspect and suspects <= 0 then
        held = 1 -- Its turn comes when this node, or another one, has nothing else in flight.
      elseif not is_suspect and wanted <= 0 then
        more = 1
      else
        redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', count + 1, 'JUSTID')
        taken[#taken + 1] = { id, count + 1, owner, fields }
        wanted, room, urgent_room = wanted - 1, room - 1, urgent_room - 1
        if is_suspect then
          suspects = suspects - 1
        end
      end
    end
    seen = seen + #page
    from = #page > 0 and '(' .. page[#page][1]
  until passed_over == 0 or #page < most or #lost >= 2 * LOST_AT_ONCE
  if seen < pending_in_all and wanted <= 0 then
    more = 1
  end
  return more, held
end

-- Whether this node searches for the messages of lost entries: no other one that lives does.
local function is_searching(stream)
  local record = beside(stream) .. 'lost:' .. group
  local by = redis.call('GET', record)
  if by and by ~= consumer and not is_gone(by) then
    return false
  end
  redis.pcall('SET', record, consumer, 'PX', SEARCHED_FOR) -- Forbidden: several search, and one of them tells.
  return true
end

-- Removes the consumers of dead nodes that have nothing pending: XGROUP DELCONSUMER drops the pending entries of the consumer,
-- and so the messages. Returns when to do so next.
local function remove_dead(stream)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
  if consumers.err then
    return now
  end
  for _, flat in ipairs(consumers) do
    local other = by_name(flat)
    local name = other['name']
    if other['pending'] == 0 and name ~= consumer and name ~= released and is_gone(name) then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
    end
  end
  return now + CLEAN_EVERY + CLEAN_EACH * #consumers
end

-- Of sources, by their prefix: what was noted of them, whether their keys are looked at now, whether something is left, and in
-- how many ms they are due. The streams of their priorities add to the latter two.
local sources = {}

local function source_at(prefix)
  local source = sources[prefix]
  if not source then
    local noted = redis.pcall(
      'HMGET', tended_at(prefix, group), 'since', 'asked', 'nodes', 'by', 'cursor', 'clean_at', 'full', 'roomy'
    )
    local since, asked, nodes = ms_in(noted[1]), ms_in(noted[2]), math.max(1, ms_in(noted[3]))
    local full, roomy = ms_in(noted[7]), math.max(1, ms_in(noted[8]))
    local is_turn = now < since or now - since >= FRESH
    if is_turn then
      -- Of a node that asks once a second this is about 1. The mean of this turn and those before: nodes that look every other
      -- second may all do so in the same turn, and seem to be twice as many then, and few in the next.
      local seen = math.ceil(asked / math.max(FRESH, now - since)) + ((noted[4] or consumer) ~= consumer and 2 or 1)
      -- Rounded so that there seem to be fewer with room rather than more: then each of them looks more often.
      local seen_roomy = math.max(1, seen - math.ceil(full / math.max(FRESH, now - since)))
      local mean = (nodes + seen) / 2
      nodes, roomy = seen < nodes and math.floor(mean) or math.ceil(mean), math.floor((roomy + seen_roomy) / 2)
      since, asked, full = now, 0, 0
    end
    source = {
      since = since, asked = asked, nodes = nodes, full = full, roomy = roomy, is_turn = is_turn,
      cursor = noted[5], clean_at = ms_in(noted[6]), is_left = false, due_in = -1,
    }
    source.clean_next = source.clean_at
    sources[prefix] = source
  end
  return source
end

local function note_sources()
  for prefix, source in pairs(sources) do
    local at = source.is_left and 0 or now
    local due = source.due_in >= 0 and now + source.due_in or 0
    local key = tended_at(prefix, group)
    note_tended(
      'HSET', key, 'at', whole(at), 'due', whole(due), 'by', consumer, 'asked', whole(source.asked), 'nodes',
      whole(source.nodes), 'full', whole(source.full), 'roomy', whole(source.roomy), 'since', whole(source.since), 'cursor',
      source.cursor or '0', 'clean_at', whole(source.clean_next)
    )
    note_tended('PEXPIRE', key, TENDED_FOR)
  end
end

local report = {}
for s = 2, #KEYS do
  local stream, prefix, cursor = KEYS[s], ARGV[7 + 2 * s], ARGV[8 + 2 * s]
  local level = level_of(prefix, stream)
  local source = source_at(prefix)
  local due_in, levels, given_back, keeping, cancelled = -1, {}, 0, {}, {}
  trouble, lost = '', {}
  if redis.call('EXISTS', stream) == 1 then
    local good, is_busy, count = pcall(sweep, stream, prefix, level, keeping)
    if not good then
      trouble = type(is_busy) == 'table' and is_busy.err or tostring(is_busy)
    elseif is_busy then
      due_in, given_back = 0, count
    end
  end
  if not level then
    local next_due, next_run = promote(prefix), promote_runs(source_of(prefix))
    if next_due < 0 or (next_run >= 0 and next_run < next_due) then
      next_due = next_run
    end
    due_in = (due_in == 0 or unlist_expired(prefix)) and 0 or next_due
    levels = redis.call('SMEMBERS', prefix .. 'priorities')
    local is_healing = cursor ~= '' and source.is_turn
    cancelled = cancelled_in(prefix, is_healing)
    if is_healing then
      cursor = heal(prefix, source.cursor or cursor)
      source.cursor = cursor
    end
  end
  local is_urgent = level == 'critical' or level == 'high'
  local more, held, missing, taken, dead, ours = 0, 0, 0, {}, {}, 0
  local owners = redis.pcall('XPENDING', stream, group)
  if owners.err then
    missing = 1
  else
    for _, owner in ipairs(owners[4] or {}) do
      local name, pending = owner[1], tonumber(owner[2])
      if name == consumer then
        ours = pending
      else
        local is_dead = name ~= released and is_gone(name)
        if is_dead or name == released then
          local left, kept = take_over(stream, prefix, name, pending, is_dead, is_urgent, taken, dead)
          more, held = math.max(more, left), math.max(held, kept)
          if is_dead and #redis.call('XPENDING', stream, group, '-', '+', 1, name) == 0 then
            redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
          end
        end
      end
    end
    if now >= source.clean_at then
      source.clean_next = math.max(source.clean_next, remove_dead(stream))
    end
  end
  source.is_left = source.is_left or more + held + missing + #lost > 0 or trouble ~= ''
  if due_in >= 0 then
    source.due_in = source.due_in < 0 and due_in or math.min(source.due_in, due_in)
  end
  if #lost > 0 and not is_searching(stream) then
    lost = {}
  end
  local keepers = {}
  for name in pairs(keeping) do
    keepers[#keepers + 1] = name
  end
  report[#report + 1] = {
    due_in, more, missing, taken, dead, ours + #taken, levels, cursor, trouble, held, given_back, keepers, lost,
    cancelled, level and 0 or source.nodes,
  }
end
join_all()
note_sources()
return report
