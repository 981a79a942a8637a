-- Runs of workflows: what follows from the end of a step. (A part: scripts begin with the parts they need.)
--
--   actorwork:{<home>}:flow:<run>         the run, a hash: secret (`step_claim` in order.lua), status, reason, title, total, open, holds, ttl, started,
--                                         late (ends that came after the end of their step or of the run), ...
--   actorwork:{<home>}:flow:<run>:steps   number -> JSON: name, kind, source, template, ... ; never changed
--   actorwork:{<home>}:flow:<run>:next    number -> JSON: who waits for it, whether for the result ('r') or outcome ('o'), and 1 if
--                                         as a member of a group, for all of whose members it waits
--   actorwork:{<home>}:flow:<run>:grown   number of a group -> JSON: the steps that were added to it
--   actorwork:{<home>}:flow:<run>:state   s<number>: 1 sent, 2 ended, 3 held; n<number>: needs left; a<number>: attempts
--                                         p<number>: the place of its message, to drop it; c<number>: the run in its place;
--                                         l<number>: of a step of whose message the run keeps the life (state.lua): '' as long as
--                                         it is open, then JSON of what is known of it besides, by the names of its fields
--   actorwork:{<home>}:flow:<run>:ends    number -> JSON: how, failure, whether caused by another step; not if it is done
--   actorwork:{<home>}:flow:<run>:values  number -> what it returned: JSON as it was settled, never decoded here
--   actorwork:{<home>}:flow:<run>:ready   by number, steps that have all they need and were not sent
--   actorwork:{<home>}:flow:<run>:fails, :held, :asking   steps by which the run fails, that wait for a retry, for a signal
--   actorwork:{<home>}:flow:<run>:undoes  steps that can be undone; :undo those that are done, in their order
--   actorwork:{<home>}:flow:<run>:asks    name of a signal -> number of its step
--   actorwork:{<home>}:flow:<run>:signals name -> value that came before its step
--   actorwork:{<home>}:flows              the runs of a home, by the time they began
--   actorwork:{<home>}:flows:due          <run>/<number>, <run>/deadline and others, by the time they are due; <run>/gone: the run has
--                                         expired, and is taken out of `flows`
--   actorwork:flow:<run>                  the home of a run; actorwork:flows: all homes
--
-- On a cluster, a run is in the slot of its home; its messages, the runs in the place of its steps, and the last two keys may be in
-- others. What is to be done there goes through the outbox of this slot, and the ends of steps come from the outboxes of theirs
-- (away.lua, effects.lua). So all that joins is still decided in one script, at the home.
--
-- These are the rules of policy/runs/rules.py, in the same words. A step's settlement, its end here and the messages that it
-- releases are one script. The number RESULT is that of the result: it is never sent, but waits as steps do.
--
-- A step ends once: all counting is behind the check of its state, so it cannot drift. What a script sends is bounded
-- (SENT_AT_ONCE); the rest is sent when `flows:due` says so, a moment later, by maintain.lua.
--
-- What is due to a source that cannot take it (no stream, no permission, no memory) stays in `ready`, behind all others, and is
-- tried again every second. The settlement of the member that released it is not refused: its end is true whatever becomes of the next step.

local RESULT = 1000000000 -- As in policy/runs/values.py; the message that undoes step n has the number RESULT + 1 + n.
local SENT_AT_ONCE = 500
local PARKED = 1000000000 -- Added to the scores of those in `ready` that could not be sent: no run has so many steps.
local CLOSED_AT_ONCE = 300
local FEW_AT_ONCE = 4 -- Fields of a hash: to count each down by itself takes less time than to read and write all.
local TRY_AGAIN_MS = 1000
local PAGES_KEPT_MS = 3600000
local OPEN = { STARTED = true, PAUSED = true, HELD = true }
local HOLDING = { failed = true, rejected = true, expired = true, lost = true }
local SUFFIXES = { ':steps', ':next', ':state', ':ends', ':values', ':ready', ':fails', ':held', ':asking', ':undo', ':undoes', ':asks',
  ':signals', ':grown' }

-- What ends a step, and what starts a run, needs these keys, beside those of its messages: asked before anything is done.
local function needs_of_join(home)
  local prefix = 'actorwork:{' .. home .. '}:'
  return {
    { 'HSET', prefix .. 'flow:', '', '' }, { 'HINCRBY', prefix .. 'flow:', '', 1 }, { 'ZADD', prefix .. 'flows:due', 0, '' },
    { 'SADD', prefix .. 'flow:', '' }, { 'PEXPIRE', prefix .. 'flow:', 1 }, { 'PEXPIRE', 'actorwork:flow:', 1 },
  }
end

local function needs_of_start()
  return { { 'SET', 'actorwork:flow:', '' }, { 'SADD', 'actorwork:flows', '' } }
end

-- Where a step belongs, from the header of its message: `<home>/<run>`, and its number as text.
local function step_in(flow)
  return string.match(flow, '^(.+)/(%d+)$')
end

local joins = {} -- By runs: what is lacking to join there, or false.

-- `of`: `<home>/<run>`, or the whole header of a step.
local function lacks_join(of)
  if joins[of] == nil then
    local home = string.match(of, '^([^/]+)/')
    if home and away.is(home) then
      joins[of] = away.lacks()
    else
      joins[of] = home and lacks('join in ' .. home, needs_of_join, home) or false
    end
  end
  return joins[of]
end

local runs = {} -- Those that this script has looked at.

local function run_at(home, run)
  local at = 'actorwork:{' .. home .. '}:flow:' .. run
  if not runs[at] then
    local known = redis.pcall('HMGET', at, 'status', 'total', 'holds', 'secret', 'ttl')
    if known.err or not known[1] then
      return nil
    end
    runs[at] = {
      at = at, home = home, run = run, status = known[1], total = tonumber(known[2]), holds = known[3] == '1', secret = known[4] or '',
      ttl = known[5],
      due = 'actorwork:{' .. home .. '}:flows:due', state = at .. ':state', ready = at .. ':ready',
    }
  end
  return runs[at]
end

local found_runs = {} -- The same, by `<home>/<run>`.

-- The run of that home; or nil and the home, if that is in another slot.
local function run_of(of)
  if not found_runs[of] then
    local home, run = string.match(of, '^([^/]+)/([^/]+)$')
    if home and away.is(home) then
      return nil, home
    end
    found_runs[of] = home and run_at(home, run) or nil
  end
  return found_runs[of]
end

-- Tells those who watch a run that something in it changes, once in a script: they are notified when the script is over.
local function tell_run(r)
  if not r.is_told then
    r.is_told = true
    redis.pcall('PUBLISH', 'actorwork:watch:' .. r.run, '')
  end
end

local function set_status(r, status, reason)
  tell_run(r)
  r.status = status
  redis.call('HSET', r.at, 'status', status, 'reason', reason or '')
end

local function state_of(r, step)
  return tonumber(redis.call('HGET', r.state, 's' .. step) or '0')
end

-- The states of those who wait for a step, as they are stored; false for 0.
local function states_of(r, dependents)
  local found = {}
  for first = 1, #dependents, CHUNK do
    local names = {}
    for i = first, math.min(first + CHUNK - 1, #dependents) do
      names[#names + 1] = 's' .. dependents[i][1]
    end
    for _, state in ipairs(redis.call('HMGET', r.state, unpack(names))) do
      found[#found + 1] = state
    end
  end
  return found
end

local function plan_of(r, step)
  return cjson.decode(redis.call('HGET', r.at .. ':steps', step))
end

local function name_of(r, step)
  return step == RESULT and 'the result' or plan_of(r, step).name
end

-- The numbers of the steps in one of the sets of a run, sorted.
local function numbers_in(r, suffix)
  local found = redis.call('SMEMBERS', r.at .. suffix)
  for i, number in ipairs(found) do
    found[i] = tonumber(number)
  end
  table.sort(found) -- Without a function of ours: it takes a tenth of the time.
  return found
end

local function id_of(r, step, attempt)
  return r.run .. '/' .. step .. (attempt and '.' .. attempt or '')
end

local function attempt_of(r, step)
  return redis.call('HGET', r.state, 'a' .. step)
end

local function write_pairs(key, values)
  for first = 1, #values, CHUNK do
    redis.call('HSET', key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

local decoded = {} -- The members of a group all have the same.
local NONE = {}

local function decoded_of(text)
  if not text then
    return NONE
  end
  if not decoded[text] then
    decoded[text] = cjson.decode(text)
  end
  return decoded[text]
end

local function dependents_of(r, step)
  return decoded_of(redis.call('HGET', r.at .. ':next', step))
end

local function wake(r, member, at)
  redis.call('ZADD', r.due, 'LT', whole(at), r.run .. '/' .. member)
  announce(r.home, at, now_ms())
end

-- ------------------------------------------------------------------------------------------------------------- messages

local function as_failed(name, ended)
  local failure = ended.failure or { type = ended.how, reason = '' }
  return cjson.encode({ step = name, kind = ended.how, error = failure.type, reason = failure.reason })
end

-- The places of the steps that were added to a group, after those in the template.
local function added_to(r, piece)
  local text = redis.call('HGET', r.at .. ':grown', piece[2])
  local places = {}
  for i, step in ipairs(text and cjson.decode(text) or {}) do
    places[i] = { step, piece[4] }
  end
  return places
end

-- Adds the pieces of a template to `text`: JSON, and the JSON of what other steps returned.
local function fill(r, template, text, ends, values)
  for _, piece in ipairs(template) do
    if type(piece) == 'string' then
      text[#text + 1] = piece
    elseif piece[1] == 'g' then
      text[#text + 1] = '['
      for i, part in ipairs(piece[3]) do
        if i > 1 then
          text[#text + 1] = ','
        end
        if part[2] == 'r' then -- As below: most are, and there may be thousands.
          text[#text + 1] = values[part[1]]
        else
          fill(r, { part }, text, ends, values)
        end
      end
      for i, place in ipairs(piece.added) do
        if i > 1 or #piece[3] > 0 then
          text[#text + 1] = ','
        end
        fill(r, { place }, text, ends, values)
      end
      text[#text + 1] = ']'
    elseif piece[1] == 'f' then
      local failed = {}
      for _, number in ipairs(numbers_in(r, ':fails')) do
        if number ~= RESULT then
          local ended = cjson.decode(redis.call('HGET', r.at .. ':ends', number))
          failed[#failed + 1] = as_failed(name_of(r, number), ended)
        end
      end
      text[#text + 1] = '[' .. table.concat(failed, ',') .. ']'
    elseif piece[2] == 'r' then
      text[#text + 1] = values[piece[1]]
    elseif values[piece[1]] then
      text[#text + 1] = '{"value":' .. values[piece[1]] .. '}'
    else
      text[#text + 1] = as_failed(name_of(r, piece[1]), cjson.decode(ends[piece[1]]))
    end
  end
end

local function gather(r, template, wanted)
  for _, piece in ipairs(template) do
    if type(piece) == 'table' then
      if piece[1] == 'g' then
        piece.added = added_to(r, piece)
        gather(r, piece[3], wanted)
        gather(r, piece.added, wanted)
      elseif piece[1] ~= 'f' then
        wanted[#wanted + 1] = piece[1]
      end
    end
  end
end

local function fetch(key, numbers, found)
  for first = 1, #numbers, CHUNK do
    local last = math.min(first + CHUNK - 1, #numbers)
    local some = redis.call('HMGET', key, unpack(numbers, first, last))
    for i = first, last do
      found[numbers[i]] = some[i - first + 1]
    end
  end
  return found
end

local function text_of(r, template)
  if #template == 1 and type(template[1]) == 'string' then
    return template[1]
  end
  local wanted, text = {}, {}
  gather(r, template, wanted)
  local values, failed = fetch(r.at .. ':values', wanted, {}), {}
  for _, step in ipairs(wanted) do
    if not values[step] then
      failed[#failed + 1] = step
    end
  end
  fill(r, template, text, fetch(r.at .. ':ends', failed, {}), values)
  return table.concat(text)
end

local function write_message(r, plan, id, sent, unlisted, is_kept)
  local prefix = 'actorwork:{' .. plan.source .. '}:'
  local claim = step_claim(r.secret, id)
  local fields = { 'id', id, 'data', text_of(r, plan.template), 'headers', plan.headers, 'claim', claim }
  for _, name in ipairs({ 'type', 'group', 'key', 'priority' }) do
    if plan[name] then
      fields[#fields + 1] = name
      fields[#fields + 1] = plan[name]
    end
  end
  if plan.lifetime or plan.expires then
    local expires = math.min(plan.expires or math.huge, plan.lifetime and now_ms() + plan.lifetime or math.huge)
    fields[#fields + 1] = 'expires'
    fields[#fields + 1] = whole(expires)
  end
  if away.is(plan.source) then
    -- A mark of its own: a run that was retried may send what undoes a step under the same id once more.
    local mark = prefix .. 'seen:' .. id .. '/' .. redis.call('HINCRBY', r.at, 'sent', 1)
    away.publish(plan.source, mark, cjson.encode({ due = plan.due, keep = tonumber(r.ttl) }), fields)
    return ''
  end
  local at, rest = due_ms(plan.due or '')
  local place
  if at then
    hold_back(prefix, id, at, rest, fields)
    place = '~' .. id
  else
    -- Without a key it waits for no other message; its place is noted by the caller.
    place = plan.key and enter(prefix, id, fields, true) or not plan.key and enter_now(prefix, plan.priority, fields) or nil
  end
  if place and is_kept then
    unlisted[#unlisted + 1] = id
  elseif place then
    lives.begin(prefix, id, claim, r.ttl, sent or whole(now_ms()), place, 0, unlisted)
  end
  return place
end

-- Sends the message of a step; returns its place, or nil if the source cannot take it. An error (a right to its keys that is
-- lacking, a key of another type) must not end the script: its caller has settled the member that released the step. `sent` is
-- the time, if the caller knows it; for `unlisted` see state.lua. `is_kept` says that the run keeps the life of the message.
local function send_message(r, plan, id, sent, unlisted, is_kept)
  local good, place = pcall(write_message, r, plan, id, sent, unlisted, is_kept)
  return good and place or nil
end

-- ---------------------------------------------------------------------------------------------------------------- rules

local end_step -- below: a signal that has come already ends its step while it is sent

local function is_sending(r)
  return r.status == 'STARTED' or r.status == 'HELD'
end

local function begin_waiting(r, step, plan)
  redis.call('HSET', r.state, 's' .. step, 1)
  redis.call('ZREM', r.ready, step)
  if plan.seconds then
    wake(r, step, now_ms() + plan.seconds)
  end
  if plan.kind == 'signal' then
    local value = redis.call('HGET', r.at .. ':signals', plan.name)
    if value then
      end_step(r, step, 1, { how = 'done', value = value })
    else
      redis.call('SADD', r.at .. ':asking', step)
      tell_run(r)
    end
  end
end

-- Sends steps that have all they need, no more than SENT_AT_ONCE; leaves out those that were sent before, or have ended. What
-- is read and written of many is read and written by one command: a call costs a script more than most commands do.
--
-- A signal that has come already ends its step while it is sent. What follows may end other steps of these, and the run: what
-- was sent before is noted first, and what comes after is looked at again.
local function send_all(r, steps)
  local asked = {}
  for i, step in ipairs(steps) do
    asked[2 * i - 1], asked[2 * i] = 's' .. step, 'a' .. step
  end
  local plans, known = fetch(r.at .. ':steps', steps, {}), fetch(r.state, asked, {})
  local sent, is_stale = whole(now_ms()), false
  local states, gone, unlisted = {}, {}, {}

  local function write()
    write_pairs(r.state, states)
    for first = 1, #gone, CHUNK do
      redis.call('ZREM', r.ready, unpack(gone, first, math.min(first + CHUNK - 1, #gone)))
    end
    for prefix, ids in pairs(unlisted) do
      if #ids > 0 then
        lives.list(prefix, sent, ids)
      end
    end
    states, gone, unlisted = {}, {}, {}
  end

  for _, step in ipairs(steps) do
    local state = is_stale and redis.call('HGET', r.state, 's' .. step) or known['s' .. step]
    if is_sending(r) and (state or '0') == '0' then
      local plan = cjson.decode(plans[step])
      if plan.kind == 'signal' or plan.kind == 'nap' then
        write()
        is_stale = true
        begin_waiting(r, tonumber(step), plan)
      else
        local prefix = 'actorwork:{' .. plan.source .. '}:'
        unlisted[prefix] = unlisted[prefix] or {}
        local attempt = known['a' .. step]
        local is_kept = not attempt and plan.source == r.home and not plan.due and not plan.key
        local place = send_message(r, plan, id_of(r, step, attempt), sent, unlisted[prefix], is_kept)
        if place then
          local n = #states
          states[n + 1], states[n + 2], states[n + 3], states[n + 4] = 's' .. step, '1', 'p' .. step, place
          if is_kept then
            states[n + 5], states[n + 6] = 'l' .. step, ''
          end
          gone[#gone + 1] = step
        else
          redis.call('ZADD', r.ready, PARKED + step, step)
          wake(r, step, now_ms() + TRY_AGAIN_MS)
        end
      end
    end
  end
  write()
end

local function send_ready(r)
  if not is_sending(r) then
    return
  end
  local steps = redis.call('ZRANGEBYSCORE', r.ready, '-inf', PARKED - 1, 'LIMIT', 0, SENT_AT_ONCE)
  send_all(r, steps)
  if #steps == SENT_AT_ONCE then
    wake(r, 'more', now_ms())
  end
end

local function record(r, step, state, ended, is_failure)
  tell_run(r)
  redis.call('HSET', r.state, 's' .. step, 2)
  if ended.how == 'done' then
    redis.call('HSET', r.at .. ':values', step, ended.value)
    if state == 3 then
      redis.call('HDEL', r.at .. ':ends', step)
    end
  else
    redis.call('HSET', r.at .. ':ends', step, cjson.encode({ how = ended.how, failure = ended.failure, caused = ended.caused }))
  end
  if state == 0 then
    redis.call('ZREM', r.ready, step)
  elseif state == 3 then
    redis.call('SREM', r.at .. ':held', step)
  end
  if is_failure then
    redis.call('SADD', r.at .. ':fails', step)
  end
  if step < RESULT then
    r.open = redis.call('HINCRBY', r.at, 'open', -1)
  end
end

local function said(ended)
  local verbs = { done = 'is done', failed = 'failed', lost = 'was lost', expired = 'expired' }
  return verbs[ended.how] or 'was ' .. ended.how
end

local function note_ready(r, steps)
  for first = 1, #steps, CHUNK do
    local scored = {}
    for i = first, math.min(first + CHUNK - 1, #steps) do
      scored[#scored + 1] = steps[i]
      scored[#scored + 1] = steps[i]
    end
    redis.call('ZADD', r.ready, unpack(scored))
  end
end

-- Records that steps which were not sent are cancelled because of another one: their numbers, and for each the JSON of its end.
local function record_caused(r, steps, ends)
  tell_run(r)
  local states, texts = {}, {}
  for i, step in ipairs(steps) do
    states[2 * i - 1], states[2 * i] = 's' .. step, '2'
    texts[2 * i - 1], texts[2 * i] = step, ends[i]
  end
  write_pairs(r.state, states)
  write_pairs(r.at .. ':ends', texts)
end

-- Counts down what steps lack: how many of their needs have ended. Returns those that lack nothing now.
local function meet(r, steps, counts)
  local ready = {}
  if #steps <= FEW_AT_ONCE then
    for _, step in ipairs(steps) do
      if redis.call('HINCRBY', r.state, 'n' .. step, -counts[step]) == 0 and step ~= RESULT then
        ready[#ready + 1] = step
      end
    end
  else
    for first = 1, #steps, CHUNK / 2 do
      local last, names, left = math.min(first + CHUNK / 2 - 1, #steps), {}, {}
      for i = first, last do
        names[#names + 1] = 'n' .. steps[i]
      end
      for i, number in ipairs(redis.call('HMGET', r.state, unpack(names))) do
        local step = steps[first + i - 1]
        left[2 * i - 1], left[2 * i] = names[i], number - counts[step]
        if left[2 * i] == 0 and step ~= RESULT then
          ready[#ready + 1] = step
        end
      end
      redis.call('HSET', r.state, unpack(left))
    end
  end
  note_ready(r, ready)
  return ready
end

-- Cancels what needs the result of a step that has none, and counts the needs of the others down. Returns those that have all
-- they need now.
--
-- All of a run may be downstream of one step: so what is cancelled because of others is looked at, and written, many at once.
local function spread(r, first, how)
  local ended = { { first, how } }
  local cancelled, ends, is_cancelled, open = {}, {}, {}, 0
  local met, counts = {}, {}
  while #ended > 0 do
    local numbers, waiting, known, next_ended = {}, {}, {}, {}
    for i, one in ipairs(ended) do
      numbers[i] = one[1]
    end
    local texts = fetch(r.at .. ':next', numbers, {})
    for _, number in ipairs(numbers) do
      for _, waits in ipairs(decoded_of(texts[number])) do
        if known[waits[1]] == nil then
          known[waits[1]] = false
          waiting[#waiting + 1] = waits
        end
      end
    end
    for i, state in ipairs(states_of(r, waiting)) do
      known[waiting[i][1]] = state
    end
    for _, one in ipairs(ended) do
      local step, end_of_it, caused, text = one[1], one[2], nil, nil
      for _, waits in ipairs(decoded_of(texts[step])) do
        local dependent, wants = waits[1], waits[2]
        if known[dependent] == '2' or is_cancelled[dependent] then
          -- It has ended.
        elseif end_of_it.how == 'done' or wants == 'o' then
          if not counts[dependent] then
            met[#met + 1] = dependent
          end
          counts[dependent] = (counts[dependent] or 0) + 1
        else
          if not caused then
            local reason = "needs '" .. name_of(r, step) .. "', which " .. said(end_of_it)
            caused = { how = 'cancelled', caused = true, failure = { type = 'Cancelled', reason = reason, traceback = '' } }
            text = cjson.encode(caused)
          end
          if known[dependent] then
            record(r, dependent, tonumber(known[dependent]), caused)
          else
            local n = #cancelled + 1
            cancelled[n], ends[n] = dependent, text
            if dependent == RESULT then
              redis.call('SADD', r.at .. ':fails', RESULT)
            else
              open = open + 1
            end
          end
          is_cancelled[dependent] = true
          next_ended[#next_ended + 1] = { dependent, caused }
        end
      end
    end
    ended = next_ended
  end
  record_caused(r, cancelled, ends)
  if open > 0 then
    r.open = redis.call('HINCRBY', r.at, 'open', -open)
  end
  local left = {}
  for _, step in ipairs(met) do
    if not is_cancelled[step] then
      left[#left + 1] = step
    end
  end
  return meet(r, left, counts)
end

local function first_failure(r)
  local step = numbers_in(r, ':fails')[1]
  if not step then
    return ''
  end
  local ended = cjson.decode(redis.call('HGET', r.at .. ':ends', step))
  local why = ended.failure and ': ' .. ended.failure.type .. ': ' .. ended.failure.reason or ''
  return "'" .. name_of(r, step) .. "' " .. said(ended) .. why
end

local function keep_for(r, ttl)
  redis.call('PEXPIRE', r.at, ttl)
  if KEYS.tag then
    away.act('actorwork:flow:' .. r.run, 'index', 'expire', r.home, ttl)
  else
    redis.call('PEXPIRE', 'actorwork:flow:' .. r.run, ttl)
  end
  for _, suffix in ipairs(SUFFIXES) do
    redis.call('PEXPIRE', r.at .. suffix, ttl)
  end
  wake(r, 'gone', now_ms() + ttl + 1)
end

-- One at a time, the last first; none of a run that was retried meanwhile: what is done then stays.
local function undo_next(r)
  if (r.status ~= 'FAILURE' and r.status ~= 'CANCELLED') or redis.call('HEXISTS', r.at, 'undoing') == 1 then
    return
  end
  local step = redis.call('RPOP', r.at .. ':undo')
  if not step then
    return
  end
  if send_message(r, plan_of(r, step).undo, r.run .. '/undo/' .. step) then
    redis.call('HSET', r.at, 'undoing', step)
  else
    redis.call('RPUSH', r.at .. ':undo', step)
    wake(r, 'undo', now_ms() + TRY_AGAIN_MS)
  end
end

local function is_undoing(r)
  return redis.call('HEXISTS', r.at, 'undoing') == 1 or redis.call('EXISTS', r.at .. ':undo') == 1
end

-- `step`: of which the message that undoes it has ended, however it did.
local function undone(r, step)
  if redis.call('HGET', r.at, 'undoing') == whole(step) then
    redis.call('HDEL', r.at, 'undoing')
    undo_next(r)
    if not OPEN[r.status] and not is_undoing(r) then
      keep_for(r, redis.call('HGET', r.at, 'ttl'))
    end
  end
end

local function send_error(r)
  local on_error = r.status == 'FAILURE' and redis.call('HGET', r.at, 'on_error')
  if on_error and not send_message(r, cjson.decode(on_error), r.run .. '/error') then
    wake(r, 'error', now_ms() + TRY_AGAIN_MS)
  end
end

local function finish(r, status, reason)
  reason = reason or ''
  local rest = redis.call('HMGET', r.at, 'result_template', 'heir', 'ttl')
  local now = whole(now_ms())
  if status == 'SUCCESS' then
    redis.call('HSET', r.at, 'result', text_of(r, cjson.decode(rest[1])))
  elseif reason == '' then
    reason = first_failure(r)
  end
  set_status(r, status, reason)
  redis.call('HSET', r.at, 'finished', now)
  redis.call('DEL', r.at .. ':signals', r.at .. ':ready', r.at .. ':held', r.at .. ':asking')
  redis.call('ZREM', r.due, r.run .. '/deadline', r.run .. '/more')
  if rest[2] then
    local heir = cjson.decode(rest[2])
    local record = '{' .. (heir.flow and '"flow":"' .. heir.flow .. '",' or '')
    record = record .. '"source":' .. cjson.encode(heir.source) .. ',"id":' .. cjson.encode(heir.id)
    if status == 'SUCCESS' then
      record = record .. ',"status":"done","value":' .. redis.call('HGET', r.at, 'result') .. '}'
    else
      local failure = { type = status == 'CANCELLED' and 'Cancelled' or 'RunFailed', reason = reason, traceback = '' }
      local how = status == 'CANCELLED' and 'rejected' or 'failed'
      record = record .. ',"status":"' .. how .. '","failure":' .. cjson.encode(failure) .. '}'
    end
    if away.is(heir.source) then
      away.act(heir.source, 'outcome', heir.id, record, heir.ttl or '', heir.claim, heir.reply_to or '')
    else
      store_outcome('actorwork:{' .. heir.source .. '}:', heir.id, record, heir.ttl or '', heir.claim, heir.reply_to or '')
    end
  end
  if status == 'FAILURE' then
    send_error(r)
  end
  if status ~= 'SUCCESS' then
    undo_next(r)
  end
  if status == 'SUCCESS' or not is_undoing(r) then -- Else it is kept until the last step is undone.
    keep_for(r, rest[3])
  end
end

-- Gives a run that is not paused its status: it is held as long as a step waits to be retried.
local function continue(r)
  local held = numbers_in(r, ':held')[1]
  if not held then
    set_status(r, 'STARTED')
  elseif r.status ~= 'HELD' then
    local ended = cjson.decode(redis.call('HGET', r.at .. ':ends', held))
    set_status(r, 'HELD', "'" .. name_of(r, held) .. "' " .. said(ended))
  end
end

-- What follows after ends were counted: `ready` are the steps that have all they need now.
local function go_on(r, ready)
  if r.status == 'HELD' then
    continue(r)
  end
  if r.open <= 0 then
    finish(r, redis.call('EXISTS', r.at .. ':fails') == 1 and 'FAILURE' or 'SUCCESS')
  elseif is_sending(r) then
    if #ready > SENT_AT_ONCE then
      ready = { unpack(ready, 1, SENT_AT_ONCE) }
      wake(r, 'more', now_ms())
    end
    if #ready > 0 then
      send_all(r, ready)
    end
  end
end

-- `state` is that of the step, which the caller has read.
function end_step(r, step, state, ended)
  if not OPEN[r.status] or state == 2 then
    return false
  end
  local is_taken = false
  for _, waits in ipairs(dependents_of(r, step)) do
    is_taken = is_taken or waits[2] == 'o'
  end
  if r.holds and HOLDING[ended.how] and not is_taken then
    redis.call('HSET', r.state, 's' .. step, 3)
    redis.call('HSET', r.at .. ':ends', step, cjson.encode({ how = ended.how, failure = ended.failure }))
    redis.call('SADD', r.at .. ':held', step)
    if r.status == 'STARTED' then
      continue(r)
    end
    return true
  end
  record(r, step, state, ended, ended.how ~= 'done' and not is_taken)
  if ended.how == 'done' and redis.call('HEXISTS', r.at .. ':undoes', step) == 1 then
    redis.call('RPUSH', r.at .. ':undo', step)
  end
  go_on(r, spread(r, step, ended))
  return true
end

-- The same for steps that were sent and are done, in the order of their ends: their numbers as text, and what they returned. As
-- none of them cancels or holds anything, all is counted at once. `kept` is what is kept of the lives of some of them.
local function end_done(r, numbers, returned, kept)
  tell_run(r)
  local states, values, n = {}, {}, 0
  for i, step in ipairs(numbers) do
    n = n + 2
    states[n - 1], states[n] = 's' .. step, '2'
    values[2 * i - 1], values[2 * i] = step, returned[i]
    if kept[i] then
      n = n + 2
      states[n - 1], states[n] = 'l' .. step, kept[i]
    end
  end
  write_pairs(r.state, states)
  write_pairs(r.at .. ':values', values)
  r.open = redis.call('HINCRBY', r.at, 'open', -#numbers)
  if redis.call('EXISTS', r.at .. ':undoes') == 1 then
    for _, step in ipairs(numbers) do
      if redis.call('HEXISTS', r.at .. ':undoes', step) == 1 then
        redis.call('RPUSH', r.at .. ':undo', step)
      end
    end
  end
  -- Members of a group are waited for by the same steps, in the same words.
  local times, last_of, position = {}, {}, 0
  for first = 1, #numbers, CHUNK do
    local last = math.min(first + CHUNK - 1, #numbers)
    for _, text in ipairs(redis.call('HMGET', r.at .. ':next', unpack(numbers, first, last))) do
      position = position + 1
      if text then
        times[text] = (times[text] or 0) + 1
        last_of[text] = position
      end
    end
  end
  local ended, turn, dependents = {}, {}, {}
  for text, count in pairs(times) do
    for i, waits in ipairs(decoded_of(text)) do
      local dependent = waits[1]
      if not ended[dependent] then
        dependents[#dependents + 1] = { dependent }
      end
      ended[dependent] = (ended[dependent] or 0) + count
      turn[dependent] = math.max(turn[dependent] or 0, last_of[text] * RESULT + i)
    end
  end
  -- In the order in which they lose their last need here.
  table.sort(dependents, function(a, b) return turn[a[1]] < turn[b[1]] end)
  local of_them, met = states_of(r, dependents), {}
  for i, waits in ipairs(dependents) do
    if of_them[i] ~= '2' then
      met[#met + 1] = waits[1]
    end
  end
  go_on(r, meet(r, met, ended))
end

-- Adds the steps of a new run, or a page of them.
local function add_steps(at, new)
  local steps, state, ready, waiting = {}, {}, {}, {}
  local function add(to, name, value)
    local n = #to
    to[n + 1], to[n + 2] = name, value
  end
  for i, step in ipairs(new.steps) do
    local number = new.first + i - 1
    local needs, waits = new.needs[i], new.next[i]
    add(steps, number, step)
    if needs > 0 then
      add(state, 'n' .. number, needs)
    else
      add(ready, number, number)
    end
    if waits ~= '' then
      add(waiting, number, waits)
    end
  end
  local function write(command, key, values)
    for first = 1, #values, CHUNK do
      redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
    end
  end
  write('HSET', at .. ':steps', steps)
  write('HSET', at .. ':state', state)
  write('ZADD', at .. ':ready', ready)
  write('HSET', at .. ':next', waiting)
end

-- Adds steps to a run by order of the handler of one of its steps (streams/plans.py), before that step ends: as members of its
-- groups, so that all who wait for it as a member wait for them too; and the steps that these members need.
--
-- Their numbers are known here only. Where one belongs, the JSON has the word `new.mark`, which no message can contain, followed by
-- s<n> for the step that is the n-th of them, u<n> for the message that undoes it, g<n> for one of their groups, or p for the
-- groups of the step itself.
-- `text` is the JSON, for a run that may be in another slot.
local function expand_run(new, message_id, claim, text)
  if text and away.is(new.home) then
    away.act(new.home, 'expand', text, message_id, claim)
    return
  end
  local r = run_at(new.home, new.run)
  if not r or not OPEN[r.status] or claim ~= step_claim(r.secret, message_id) then
    return
  end
  local state, attempt = unpack(redis.call('HMGET', r.state, 's' .. new.step, 'a' .. new.step))
  if (state ~= '1' and state ~= '3') or id_of(r, new.step, attempt) ~= message_id then
    return
  end
  local first, groups = r.total, plan_of(r, new.step).groups or {}
  local function number(kind, n)
    if kind == 's' then
      return whole(first + n)
    elseif kind == 'u' then
      return whole(RESULT + 1 + first + n)
    elseif kind == 'g' then
      return whole(RESULT + first * 1000 + n) -- `number_of_group` in policy/runs/values.py
    end
    return table.concat(groups, ',')
  end
  local function numbered(text)
    text = string.gsub(text, '"' .. new.mark .. '(%a)(%d*)"', number)
    return (string.gsub(text, new.mark .. '(%a)(%d*)', number)) -- In the header of a message, which is text within text.
  end
  local gathering = {}
  for _, waits in ipairs(dependents_of(r, new.step)) do
    if waits[3] then
      gathering[#gathering + 1] = waits
    end
  end
  local is_member = {}
  for _, n in ipairs(new.members) do
    is_member[n] = true
  end
  local page = { first = first, steps = {}, needs = new.needs, next = {} }
  for i, step in ipairs(new.steps) do
    page.steps[i] = numbered(step)
    local waits = new.next[i] ~= '' and cjson.decode(numbered(new.next[i])) or {}
    for _, one in ipairs(is_member[i - 1] and gathering or NONE) do
      waits[#waits + 1] = one
    end
    page.next[i] = #waits > 0 and cjson.encode(waits) or ''
  end
  add_steps(r.at, page)
  for i, state_of_it in ipairs(states_of(r, gathering)) do
    if state_of_it ~= '2' then
      redis.call('HINCRBY', r.state, 'n' .. gathering[i][1], #new.members)
    end
  end
  for _, group in ipairs(groups) do
    local text = redis.call('HGET', r.at .. ':grown', group)
    local all = text and cjson.decode(text) or {}
    for _, n in ipairs(new.members) do
      all[#all + 1] = first + n
    end
    redis.call('HSET', r.at .. ':grown', group, cjson.encode(all))
  end
  for _, n in ipairs(new.undoes) do
    redis.call('HSET', r.at .. ':undoes', first + n, 1)
  end
  r.total = redis.call('HINCRBY', r.at, 'total', #new.steps)
  redis.call('HINCRBY', r.at, 'open', #new.steps)
  send_ready(r)
end

local close_run -- below

-- Notes that a run is in the place of a step, to be cancelled with its run; returns false if that is over. The header may have
-- been copied by a foreign producer: only the message that the run has sent is a step of it.
local function adopt_at(home, run, step, inner_home, inner_run, claim, id)
  local parent = run_at(home, run)
  if not parent or claim ~= step_claim(parent.secret, id) then
    return true
  end
  local state, attempt = unpack(redis.call('HMGET', parent.state, 's' .. step, 'a' .. step))
  if not OPEN[parent.status] or (state ~= '1' and state ~= '3') or id_of(parent, step, attempt) ~= id then
    return false
  end
  redis.call('HSET', parent.state, 'c' .. step, inner_home .. '/' .. inner_run)
  return true
end

-- The same of a new run. If the other one is in another slot, and over, this one is cancelled from there, a moment later.
local function adopt(new)
  if not new.parent then
    return true
  end
  local home, run, step = unpack(new.parent)
  local heir = cjson.decode(new.heir)
  if away.is(home) then
    away.act(home, 'adopt', home, run, whole(step), new.home, new.run, heir.claim, heir.id)
    return true
  end
  return adopt_at(home, run, step, new.home, new.run, heir.claim, heir.id)
end

-- Starts a run from the JSON of streams/plans.py; returns false if there is one with its id. `text` is the JSON, for a run that may
-- be in another slot.
--
-- On a cluster, the caller that starts it has claimed the id for this home alone (streams/runs.py).
local function start_run(new, text)
  if text and away.is(new.home) then
    away.act(new.home, 'start', text)
    return true
  end
  local at = 'actorwork:{' .. new.home .. '}:flow:' .. new.run
  if KEYS.tag and redis.call('HEXISTS', at, 'begun') == 1
    or not KEYS.tag and redis.call('EXISTS', 'actorwork:flow:' .. new.run) == 1 then
    return false
  end
  local now = now_ms()
  if not KEYS.tag then
    redis.call('SADD', 'actorwork:flows', new.home)
  elseif redis.call('EXISTS', 'actorwork:{' .. new.home .. '}:flows') == 0 then
    away.act('actorwork:flows', 'home', new.home)
  end
  redis.call('ZADD', 'actorwork:{' .. new.home .. '}:flows', whole(now), new.run)
  redis.call('HSET', at, 'status', 'STARTED', 'reason', '', 'title', new.title, 'total', new.total, 'open', new.total,
    'holds', new.holds, 'secret', new.secret, 'ttl', whole(new.ttl), 'started', whole(now), 'result_template', new.result)
  for _, name in ipairs({ 'on_error', 'heir' }) do
    if new[name] then
      redis.call('HSET', at, name, new[name])
    end
  end
  if new.pages then -- They were sent before, because they are many.
    for _, part in ipairs({ ':steps', ':state', ':next', ':ready' }) do
      if redis.call('EXISTS', at .. ':' .. new.pages .. part) == 1 then
        redis.call('RENAME', at .. ':' .. new.pages .. part, at .. part)
        redis.call('PERSIST', at .. part)
      end
    end
  end
  add_steps(at, new)
  redis.call('HSET', at .. ':state', 'n' .. RESULT, new.needs_of_result)
  for _, step in ipairs(new.undoes) do
    redis.call('HSET', at .. ':undoes', step, 1)
  end
  for name, step in pairs(new.signals) do
    redis.call('HSET', at .. ':asks', name, step)
  end
  -- Last: if this script fails before, the run is started anew.
  if KEYS.tag then
    away.act('actorwork:flow:' .. new.run, 'index', 'set', new.home)
    redis.call('HSET', at, 'begun', 1)
  else
    redis.call('SET', 'actorwork:flow:' .. new.run, new.home)
  end
  local r = run_at(new.home, new.run)
  r.open = tonumber(new.total)
  if not adopt(new) then
    close_run(r, 'CANCELLED', "the run of '" .. cjson.decode(new.heir).id .. "' has ended")
    return true
  end
  if new.deadline then
    wake(r, 'deadline', now + new.deadline)
  end
  if r.open > 0 then
    send_ready(r)
  else
    finish(r, 'SUCCESS')
  end
  return true
end

-- Ends some steps of a run that is closed, the last first: a message that is dropped lets the next one of its key in, which is
-- a later step. Returns whether there are more.
local function close_more(r)
  local closing = redis.call('HMGET', r.at, 'closing', 'reason')
  local last = tonumber(closing[1] or '-1')
  local first = math.max(0, last - CLOSED_AT_ONCE + 1)
  local failure = { type = 'Cancelled', reason = closing[2], traceback = '' }
  for step = last, first, -1 do
    local state = state_of(r, step)
    if state ~= 2 then
      if state == 1 or state == 3 then
        local plan = plan_of(r, step)
        local child = redis.call('HGET', r.state, 'c' .. step)
        local child_home, child_run = string.match(child or '', '^(.*)/(.*)$')
        local is_child_away = child and away.is(child_home)
        local inner = child and not is_child_away and run_at(child_home, child_run)
        if is_child_away then
          away.act(child_home, 'cancel', child_home, child_run, "its run '" .. r.run .. "' has ended")
        elseif inner and close_run(inner, 'CANCELLED', "its run '" .. r.run .. "' has ended") then
          -- Its message was settled when its handler continued with this run.
        elseif not plan.source then
          redis.call('ZREM', r.due, id_of(r, step)) -- A nap, or a signal with a limit.
        elseif away.is(plan.source) then
          away.act(plan.source, 'drop', id_of(r, step, attempt_of(r, step)), closing[2])
        else
          local prefix, id = 'actorwork:{' .. plan.source .. '}:', id_of(r, step, attempt_of(r, step))
          local place = redis.call('HGET', r.state, 'p' .. step)
          local reason = closing[2]
          if not (drop(prefix, '~' .. id, 'Cancelled', reason) or drop(prefix, '=' .. id, 'Cancelled', reason)
            or place and drop(prefix, place, 'Cancelled', reason)) then
            cancels.note(prefix, id, reason, false) -- A node has it in flight.
          end
        end
      end
      local held = state == 3 and redis.call('HGET', r.at .. ':ends', step) -- It has ended before, and is retried no more.
      record(r, step, state, held and cjson.decode(held) or { how = 'cancelled', failure = failure }, held and true)
    end
  end
  if first > 0 then
    redis.call('HSET', r.at, 'closing', first - 1)
    wake(r, 'close', now_ms())
    return true
  end
  redis.call('HDEL', r.at, 'closing')
  finish(r, r.status, closing[2])
  return false
end

-- Ends an open run: what has not begun is dropped, what runs ends too late to count. Of a large run this takes several scripts;
-- its status is there at once, so no end counts any more, and `finished` once all is dropped.
function close_run(r, status, reason)
  if not OPEN[r.status] then
    return false
  end
  set_status(r, status, reason)
  redis.call('HSET', r.at, 'closing', r.total - 1)
  close_more(r)
  return true
end

-- Changes a run. If that fails, its keys are not what this script has made them (they were written or deleted by hand): then the
-- run ends, and what else is settled in this script is not lost with it.
local function guarded(r, change, ...)
  local good, problem = pcall(change, ...)
  if good then
    return
  end
  if OPEN[r.status] then
    local reason = 'its keys at the broker are damaged: ' .. tostring(type(problem) == 'table' and problem.err or problem)
    if not pcall(finish, r, 'FAILURE', reason) then
      redis.pcall('HSET', r.at, 'status', 'FAILURE', 'reason', reason, 'finished', whole(now_ms()))
      r.status = 'FAILURE'
    end
  end
  redis.pcall('HDEL', r.at, 'closing')
  pcall(keep_for, r, r.ttl)
  tell_run(r)
end

-- Draws the conclusions from all ends that this script has noted (`store_outcome`, `reject_unread` in order.lua). What it
-- drops and what it answers may end further steps: the list grows while it is worked off.
--
-- Steps that are done, as nearly all are, are joined run by run, many at once: of a batch of members each costs what is read
-- and written of it alone, whatever else it was settled with. Any other end comes when all before it are joined.
local function join_all()
  local PER_CALL = math.floor(CHUNK / 3)
  local waiting, in_order = {}, {} -- Of each run: the steps that are done and not joined yet. Numbers are text, as Redis has them.

  local function count_late(r, count)
    if count > 0 then
      redis.call('HINCRBY', r.at, 'late', count)
    end
  end

  local function end_one(r, step, noted)
    local known = redis.call('HMGET', r.state, 's' .. step, 'a' .. step)
    local is_current = (known[1] == '1' or known[1] == '3') and id_of(r, step, known[2]) == noted.id
    local is_late = not is_current or not end_step(r, step, tonumber(known[1]), noted.ended)
    -- That a message was cancelled is what follows from the end of its run.
    count_late(r, is_late and noted.ended.how ~= 'cancelled' and 1 or 0)
  end

  local function join_page(page)
    local r, steps, ids = page.r, page.steps, page.ids
    local numbers, returned, at, keeps, is_held = {}, {}, {}, {}, false
    for first = 1, #steps, PER_CALL do
      local last = math.min(first + PER_CALL - 1, #steps)
      local asked = {}
      for i = first, last do
        local n = #asked
        asked[n + 1], asked[n + 2], asked[n + 3] = 's' .. steps[i], 'a' .. steps[i], 'l' .. steps[i]
      end
      local known = redis.call('HMGET', r.state, unpack(asked))
      for i = first, last do
        local n = 3 * (i - first)
        local state, attempt = known[n + 1], known[n + 2]
        if (state == '1' or state == '3')
          and (not attempt and page.lives[i] or id_of(r, steps[i], attempt) == ids[i]) then
          local next = #numbers + 1
          numbers[next], returned[next], at[next], keeps[next] = steps[i], page.returned[i], i, known[n + 3] == ''
          is_held = is_held or state == '3'
        elseif page.lives[i] then
          lives.finish_done(page.lives[i], ids[i], page.claims[i])
        end
      end
    end
    local is_joined, kept = not is_held and #numbers > 0 and OPEN[r.status], {}
    for n, i in ipairs(at) do
      local life = page.lives[i] -- False if it has ended already.
      if life and is_joined and keeps[n] then
        kept[n] = lives.finish_kept(life, ids[i])
      elseif life then
        lives.finish_done(life, ids[i], page.claims[i])
      end
    end
    local counted = is_joined and #numbers or 0
    if is_joined then
      end_done(r, numbers, returned, kept)
    end
    for i = 1, is_held and #numbers or 0 do -- A failure is taken back: one by one.
      if end_step(r, tonumber(numbers[i]), state_of(r, numbers[i]), { how = 'done', value = returned[i] }) then
        counted = counted + 1
      end
    end
    count_late(r, #steps - counted + page.late)
  end

  local function join_waiting()
    local joined = in_order
    waiting, in_order = {}, {}
    for _, page in ipairs(joined) do
      guarded(page.r, join_page, page)
    end
  end

  -- Notes that a step is done; `life` is what its life is ended with, if that is not over yet.
  -- That it comes with a `life` says that the id is the one of a first attempt.
  local function wait_for_others(r, number, id, value, claim, life)
    local page = waiting[r]
    local before = page and page.id_of[number]
    if before and before ~= id then -- Of two attempts: which of them counts is known when the first is joined.
      join_waiting()
      page, before = nil, nil
    end
    if not page then
      page = { r = r, steps = {}, ids = {}, returned = {}, lives = {}, claims = {}, id_of = {}, late = 0 }
      waiting[r] = page
      in_order[#in_order + 1] = page
    end
    if not before then
      local n = #page.steps + 1
      page.id_of[number] = id
      page.steps[n], page.ids[n], page.returned[n], page.lives[n], page.claims[n] = number, id, value, life or false, claim
    else -- Of two ends of one message the first counts.
      page.late = page.late + 1
      if life then
        lives.finish_done(life, id, claim)
      end
    end
  end

  -- Joins the steps of settle.lua's kind 'steps': all done, of one run.
  local function join_many(many)
    local r, elsewhere = run_of(many.of)
    local run = string.match(many.of, '/(.+)$') .. '/'
    for n, number in ipairs(many.numbers) do
      local id, claim = run .. number, many.claims[n]
      if elsewhere then
        away.act(elsewhere, 'end', many.of .. '/' .. number, id, claim, 'done', many.values[n], '')
      end
      if r and claim == step_claim(r.secret, id) and tonumber(number) < RESULT then
        wait_for_others(r, number, id, many.values[n], claim, many.life)
      else
        lives.finish_done(many.life, id, claim)
        if r and claim == step_claim(r.secret, id) and tonumber(number) > RESULT then
          join_waiting()
          guarded(r, undone, r, number - RESULT - 1)
        end
      end
    end
  end

  local i = 1
  while i <= #ended_steps or #in_order > 0 do
    local noted = ended_steps[i]
    if not noted then
      join_waiting() -- It may note further ends.
    elseif noted.numbers then
      join_many(noted)
      i = i + 1
    else
      local of, number = step_in(noted.flow)
      local r, elsewhere
      if of then
        r, elsewhere = run_of(of)
      end
      if elsewhere then
        local ended = noted.ended
        away.act(elsewhere, 'end', noted.flow, noted.id, noted.claim or '', ended.how, ended.value or '',
          ended.failure and cjson.encode(ended.failure) or '')
      end
      -- The header may have been written by a foreign producer: only a message that this run has sent counts.
      if r and noted.claim == step_claim(r.secret, noted.id) then
        local step = tonumber(number)
        if step < RESULT and noted.ended.how == 'done' then
          wait_for_others(r, number, noted.id, noted.ended.value, noted.claim)
        else
          join_waiting()
          if step > RESULT then
            guarded(r, undone, r, step - RESULT - 1)
          else
            guarded(r, end_one, r, step, noted)
          end
        end
      end
      i = i + 1
    end
  end
  ended_steps = {}
  lives.tell_joined()
end

-- Does what is due in a run: of a step whose number it is, or what it says.
local function do_due(r, what, now)
  if what == 'deadline' then
    close_run(r, 'FAILURE', 'deadline')
  elseif what == 'more' then
    send_ready(r)
  elseif what == 'close' then
    close_more(r)
  elseif what == 'undo' then
    undo_next(r)
  elseif what == 'error' then
    send_error(r)
  elseif what == 'gone' then
    if not OPEN[r.status] then -- It was retried, and ended again, or another run has its id now.
      wake(r, 'gone', now + math.max(1, redis.call('PTTL', r.at)))
    end
  else
    local step = tonumber(what)
    local plan, state = plan_of(r, step), state_of(r, step)
    if state == 0 and is_sending(r) then
      send_all(r, { step })
    elseif state == 0 then
      redis.call('ZADD', r.ready, 'XX', step, step) -- It could not be sent, and is sent when the run is resumed.
    elseif plan.kind == 'nap' then
      end_step(r, step, state, { how = 'done', value = 'null' })
    elseif plan.kind == 'signal' and state == 1 then
      local failure = { type = 'Expired', reason = "no signal '" .. plan.name .. "'", traceback = '' }
      redis.call('SREM', r.at .. ':asking', step)
      end_step(r, step, state, { how = 'expired', failure = failure })
    end
  end
end

-- Does what is due in the runs of a home; returns ms until the next, -1 for none.
local function promote_runs(home)
  local due = 'actorwork:{' .. home .. '}:flows:due'
  local now = now_ms()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', 0, 100)) do
    redis.call('ZREM', due, member)
    local run, what = string.match(member, '^([^/]+)/(.+)$')
    local r = run and run_at(home, run)
    if r then
      guarded(r, do_due, r, what, now)
    elseif what == 'gone' then
      redis.call('ZREM', 'actorwork:{' .. home .. '}:flows', run)
    end
  end
  local soonest = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  return soonest[2] and math.max(0, math.ceil(tonumber(soonest[2])) - now) or -1
end
