-- Settles a batch of deliveries of one source and group: those that are still ours, each one wholly.
--
-- KEYS  the stream, the record of the last batch
-- ARGV  the prefix of the source's keys, group, consumer, number of the batch, first and last id, how many deliveries,
--       how many plain acks; for each of those: entry id, delivery count; then for each other settlement:
--         kind, entry id, delivery count, message id, its key, its unique key ('' means none),
--         outcome (JSON or ''; of a retry that of a message that is lost), how many ms to keep it ('' means not), the claim
--         to its result, where to publish it ('' means nowhere), its attempt ('' if it is not tracked), how many values say
--         more of its life, those: field, value, ... (state.lua),
--         how many messages it publishes, for each: source, prefix (with '>' before it if its slot is another one: targets.lua),
--         mark, bit, terms, how many values, those values
--         kind 'retry': delay in ms, headers; kind 'fail': actor, error, reason, traceback, attempt,
--           how many dead letters to keep, and for how many ms, the failure as JSON if it is reported to the actor, else ''
--         kind 'start', an ack that starts runs, or adds steps to the one of which it is a step: how many, those as JSON (run_starting.lua);
--           kind 'expand', one that does no more than the latter
--       kind 'keep' publishes for a delivery that stays in flight.
--       kind 'steps' are acks of steps of one run, of which no more is asked, as of nearly all: home and run, the actor, attempt,
--         delivery count, when they were received and begun (ms; '' if that is not known), how many; then for each: entry id,
--         number of the step, claim, what it returned. The id of such a message is that of the run, a slash and the number.
--       A kind that begins with '=' ('=ack', '=start', '=expand', '=keep') also changes the state of the delivery's key: last come
--         the seven values of entities.lua.
--       The last value is how many messages the node takes at once, if others have entered the stream as these have left.
--
-- Returns the batch's number, which of the settlements (0, 1, ...) were refused because the delivery is not ours any
-- more, and which could not be applied (which, error, which, error, ...): these deliveries are still in flight. An error that
-- begins with NOPERM is about this user's rights at the source itself, and may pass; one that begins with STALE says which
-- version the state of the key has instead of the one that its handler ran on. Last come notes (which, note, which,
-- note, ...): 'unclaimed', a result was to be kept for an entry that did not ask for it; 'lost', there is no entry to retry;
-- 'untold', the entry could not be added that tells the actor of a failure. Then how many entries are given to the node, and
-- those: id, fields, stamp of the state of its key. The record has only how many: a node that gets no more has lost them.
--
-- The record makes the answer repeatable: a batch whose reply was lost is sent again under its number, and batch.lua returns
-- the recorded answer. Without it the fence would refuse every settlement of the repeated batch, as its entries are gone.
--
-- A script cannot be undone: what it wrote before an error stays. So everything that can be refused is checked before the
-- first write of a settlement: the fence, the rights, the types of the sources it publishes to, the number of fields of a
-- retry. What is known only by trying (a stream whose last id is exhausted) is tried first: the messages it publishes, then
-- the entry of the next attempt. If one of these is refused, nothing else is done; the messages before it have their marks,
-- so the next settlement of this delivery does not send them again. One settlement that is refused does not hold up the
-- others of its batch.
--
-- For each settlement the order is: publish, then next attempt or dead letter, then outcome; acks of the whole batch come
-- last, in one call. The one exception is a delivery that has a key and publishes: it leaves first, as the messages that it
-- publishes may want its key, or its unique key, and would otherwise queue behind it or be refused. It cannot come back, so
-- there even the last ids of the streams are looked at before.
--
-- A delivery with a key or a unique key is never among the plain acks: it has to free them.
--
-- Cost: three calls for the batch (the fence's XPENDING, XACK, XDEL, each with all ids) and two for the record. A settlement
-- that is not a plain ack adds only what it writes; one TYPE for each source that the batch publishes to.

local level = level_of(prefix, stream)
local touched = {}

-- A copy of the fields without the keys that this entry only names: `place` is not among the places of their holders.
local function without_foreign_keys(fields, place, key, unique)
  local places = key and places_of(prefix, key) or {}
  local record = unique and unique_record(prefix, unique)
  local has = { key = false, unique = false }
  for _, held in ipairs(places) do
    has.key = has.key or held == place
  end
  for _, held in ipairs(record and record.places or {}) do
    has.unique = has.unique or held == place
  end
  local kept = {}
  for f = 1, #fields, 2 do
    if has[fields[f]] ~= false then
      kept[#kept + 1], kept[#kept + 2] = fields[f], fields[f + 1]
    end
  end
  return kept, has
end

local function needs_of_entry()
  return { { 'XADD', stream, '0-0', 'data', '' }, { 'XRANGE', stream, '0-0', '0-0' }, { 'HEXISTS', prefix .. 'waiting', '' } }
end

-- Settles the steps of a run whose kind is ARGV[i]: what the loop below would do, and no more. Returns where the next one begins.
local function settle_steps(i)
  local of, count, beyond = ARGV[i + 1], ARGV[i + 4], i + 8 + 4 * ARGV[i + 7]
  local life = lives.of_done(prefix, ARGV[i + 2], consumer, ARGV[i + 3], count, ARGV[i + 5], ARGV[i + 6])
  local lacking, n = lacks_join(of), 0
  local numbers, claims, values = {}, {}, {}
  for at = i + 8, beyond - 1, 4 do
    local id = ARGV[at]
    if settled[id] or not mine(id, count) then
      fenced[#fenced + 1] = which
    elseif lacking then
      refused[#refused + 1] = which
      refused[#refused + 1] = lacking
    else
      settled[id] = true
      acked[#acked + 1] = id
      n = n + 1
      numbers[n], claims[n], values[n] = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    end
    which = which + 1
  end
  ended_steps[#ended_steps + 1] = { of = of, life = life, numbers = numbers, claims = claims, values = values }
  return beyond
end

local room = tonumber(table.remove(ARGV))
local last = #ARGV
while i <= last do
  local kind, id, count, message_id = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  while kind == 'steps' do
    i = settle_steps(i)
    kind, id, count, message_id = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  end
  if not kind then
    break
  end
  local key, unique = ARGV[i + 4] ~= '' and ARGV[i + 4] or nil, ARGV[i + 5] ~= '' and ARGV[i + 5] or nil
  local outcome, ttl, claim, reply_to = ARGV[i + 6], ARGV[i + 7], ARGV[i + 8], ARGV[i + 9]
  local attempt, lived = ARGV[i + 10], i + 12
  local flow = flow_in(outcome)
  local change = string.byte(kind) == 61
  if change then
    kind = string.sub(kind, 2)
  end
  local last_lived = i + 11 + ARGV[i + 11]
  local published = tonumber(ARGV[last_lived + 1])
  local messages = last_lived + 2

  -- It leaves before it publishes: see the top of this file.
  local leaves_first = (key or unique) and published > 0 and kind ~= 'keep' and kind ~= 'retry'

  i = messages
  local trouble, lacking = nil, nil
  for _ = 1, published do
    local problem, right
    if leaves_first then
      problem, right = problem_for_good_with(ARGV[i], ARGV[i + 1])
      lacking = lacking or right
    else
      problem = problem_with(ARGV[i], ARGV[i + 1])
    end
    if problem ~= '' then
      trouble = problem
    end
    i = i + 6 + ARGV[i + 5]
  end
  local extras = i
  lacking = lacking or (kind == 'retry' or published > 0) and lacks('entry', needs_of_entry)
    or kind == 'fail' and ARGV[i + 7] ~= '' and lacks('entry', needs_of_entry)
    or kind == 'retry' and lacks('delay', needs_of_delay, prefix)
    or kind == 'fail' and lacks('dead letter', needs_of_dead_letter, stream, prefix)
    or (key or unique) and lacks('leaving', needs_of_leaving, prefix)
    or ttl ~= '' and lacks('result', needs_of_result, prefix)
    or flow and lacks_join(flow)
    or kind == 'start' and (lacks('start', needs_of_start) or KEYS.tag and away.lacks())
    or change and lacks('entity', entities.needs, prefix, group)
  local fields = nil
  if kind == 'retry' then
    i = i + 2
    fields = not lacking and fields_of(stream, id)
    if fields and #fields > MOST_VALUES then
      trouble = 'an entry with ' .. #fields / 2 .. ' fields cannot be added again'
    end
  elseif kind == 'fail' then
    i = i + 8
  elseif kind == 'start' or kind == 'expand' then
    i = i + 1 + ARGV[extras]
  end
  if change then
    change = i
    i = i + 7
    trouble = trouble or not lacking and entities.problem(prefix, group, key, ARGV[change]) or nil
  end

  if settled[id] or not mine(id, count) then
    fenced[#fenced + 1] = which
  elseif lacking or trouble then
    refused[#refused + 1] = which
    refused[#refused + 1] = lacking or trouble
  else
    -- Read before the entry is deleted.
    local dead = kind == 'fail' and (fields_of(stream, id) or {})
    local is_gone = false
    if leaves_first then
      is_gone = true
      if #ack_and_delete(stream, group, { id }) > 0 then
        leave(prefix, place_at(level, id), key, unique)
      end
    end
    local m = messages
    handed_over_by = kind == 'keep' and unique and place_at(level, id) or nil
    for _ = 1, published do
      local ending = m + 5 + ARGV[m + 5]
      local _, problem = send(prefix, m, touched)
      if problem then
        trouble = string.find(problem, '^NOPERM') and problem or 'the source ' .. ARGV[m] .. ': ' .. problem
        break
      end
      m = ending + 1
    end
    handed_over_by = nil
    local place, at, rest
    local has = {}
    -- Cancelled while it was in flight: it is not tried again.
    local cancelled = kind == 'retry' and attempt ~= '' and fields and cancels.reason(prefix, message_id)
    if kind == 'retry' and fields and not trouble and not cancelled then
      fields = readdressed(fields, message_id, ARGV[extras + 1], group)
      if key or unique then
        fields, has = without_foreign_keys(fields, place_at(level, id), key, unique)
      end
      at, rest = due_ms('+' .. ARGV[extras])
      if not at then
        local added = redis.pcall('XADD', stream, '*', unpack(fields))
        if type(added) == 'table' then
          trouble = 'the next attempt cannot be added to ' .. stream .. ': ' .. added.err
        else
          place = place_at(level, added)
        end
      end
    end
    if change and not trouble then
      entities.change(prefix, group, key, message_id, consumer, unpack(ARGV, change, change + 6))
    end
    if trouble then
      refused[#refused + 1] = which
      refused[#refused + 1] = trouble
    elseif kind ~= 'keep' then
      settled[id] = true
      if not is_gone then
        acked[#acked + 1] = id
        holds(id, key, unique)
      end
      if kind == 'retry' then
        if cancelled then
          reject_unread(prefix, message_id, by_name(fields)['headers'], claim, 'rejected', 'Cancelled', cancelled)
          outcome = ''
        elseif fields then
          if at then
            local member = member_for(prefix, message_id, group, id)
            hold_back(prefix, member, at, rest, fields)
            place = '~' .. member
          end
          step_moved(prefix, by_name(fields), place)
          if attempt ~= '' then
            lives.note(prefix, message_id, claim, 'RETRY', attempt, count, lived, last_lived, place)
          end
          if has.key then
            hold_key(prefix, key, place)
          end
          if has.unique then
            note_unique(prefix, unique, place_at(level, id), nil, place)
          end
          outcome = '' -- Only of a message that is lost.
        else
          note('lost')
        end
      elseif kind == 'fail' then
        add_dead_letter(prefix, {
          'actor', ARGV[extras], 'group', group, 'error', ARGV[extras + 1], 'reason', ARGV[extras + 2],
          'traceback', ARGV[extras + 3], 'attempt', ARGV[extras + 4], 'at', whole(now_ms()), 'entry', id,
          'id', message_id,
        }, dead, ARGV[extras + 5], whole(now_ms() - ARGV[extras + 6]))
        if ARGV[extras + 7] ~= '' and #dead > 0 and tell_failure(stream, dead, message_id, group, ARGV[extras + 7]) then
          note('untold')
        end
      end
      if kind == 'start' or kind == 'expand' then
        for run = extras + 1, extras + ARGV[extras] do
          local new = cjson.decode(ARGV[run])
          if new.mark then
            expand_run(new, message_id, claim, ARGV[run])
          else
            start_run(new, ARGV[run])
          end
        end
      end
      if outcome ~= '' then
        if not store_outcome(prefix, message_id, outcome, ttl, claim, reply_to, kind == 'fail', lived, last_lived) then
          note('unclaimed')
        end
      end
    end
  end
  which = which + 1
end

return conclude(room, join_all)
