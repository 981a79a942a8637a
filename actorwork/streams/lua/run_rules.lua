-- What follows from the end of a step. (A part: scripts begin with the parts they need.)
--
-- These are the rules of policy/runs/rules.py, in the same words. A step's settlement, its end here and the messages that it
-- releases are one script. The number RESULT is that of the result: it is never sent, but waits as steps do.
--
-- A step ends once: all counting is behind the check of its state, so it cannot drift. What a script does is bounded (`budget`),
-- however large the run is: what is left is done when `flows:due` says so, a moment later, by maintain.lua. These are the steps in
-- `ready`, which are to be sent, and those in `spread`: their ends are recorded, but not all who wait for them know. A dependent in
-- whose place that is cannot be sent meanwhile, as it still lacks one need, and the run cannot end before.
--
-- What is due to a source that cannot take it (no stream, no permission, no memory) stays in `ready`, behind all others, and is
-- tried again every second. The settlement of the member that released it is not refused: its end is true whatever becomes of
-- the next step.

local rules = {} -- What only this part calls: a script may have no more than 200 local variables.
local end_step -- below: a signal that has come already ends its step while it is sent

local function is_sending(r)
  return r.status == 'STARTED' or r.status == 'HELD'
end

function rules.begin_waiting(r, step, plan)
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
      listed.add(r, ':asking', step)
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
        rules.begin_waiting(r, tonumber(step), plan)
      else
        local prefix = 'actorwork:{' .. plan.source .. '}:'
        unlisted[prefix] = unlisted[prefix] or {}
        local attempt = known['a' .. step]
        plan.number = step
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
    elseif (state or '0') ~= '0' then
      gone[#gone + 1] = step
    end
  end
  write()
end

local function send_ready(r)
  if not is_sending(r) then
    return
  end
  local most = math.max(budget.sends, 0)
  local steps = redis.call('ZRANGEBYSCORE', r.ready, '-inf', PARKED - 1, 'LIMIT', 0, most)
  budget.sends = most - #steps
  send_all(r, steps)
  if #steps == most then
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
    listed.drop(r, ':held', step)
  end
  if is_failure then
    listed.add(r, ':fails', step)
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
  local scored = {}
  for i, step in ipairs(steps) do
    scored[2 * i - 1], scored[2 * i] = step, step
  end
  write_pairs(r.ready, scored, 'ZADD')
end

-- Counts down what steps lack: how many of their needs have ended, with how many bytes (nil: none that count). Returns those that
-- lack nothing now.
function rules.meet(r, steps, counts, sizes)
  local ready = {}
  for _, step in ipairs(sizes and steps or NONE) do
    if (sizes[step] or 0) > 0 then
      redis.call('HINCRBY', r.state, 'b' .. whole(step), sizes[step])
    end
  end
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

-- Leaves the dependents of steps to the scripts to come: those of `queue` from `first` on.
function rules.spread_later(r, queue, first)
  local scored = {}
  for i = first, #queue do
    local n, step = #scored, queue[i].step
    scored[n + 1], scored[n + 2] = step * NEXT.most_pages + queue[i].page, step
  end
  if #scored > 0 then
    write_pairs(r.at .. ':spread', scored, 'ZADD')
    wake(r, 'more', now_ms())
  end
end

-- Cancels what needs the result of a step that has none, and counts the needs of the others down. Returns those that have all
-- they need now. `queue`: steps that have ended, how, and from which page of their dependents on.
--
-- All of a run may be downstream of one step: so what is cancelled because of others is looked at, and written, many at once, and no
-- more in one script than there is room for.
local function spread(r, queue)
  local cancelled, ends, is_cancelled, open = {}, {}, {}, 0
  local met, counts = {}, {}
  local sizes = nil -- By dependents: how many bytes of inputs, if any of these is long.
  local head = 1
  while head <= #queue and budget.looks > 0 and r.status ~= 'RETRY' do
    local last, names = math.min(#queue, head + budget.looks - 1), {}
    for i = head, last do
      names[i - head + 1] = next_of(queue[i].step, queue[i].page)
    end
    local texts, waiting, known = fetch(r.at .. ':next', names, {}), {}, {}
    local beyond = head
    while beyond <= last and budget.looks > 0 do
      local dependents = decoded_of(texts[names[beyond - head + 1]])
      for _, waits in ipairs(dependents) do
        if known[waits[1]] == nil then
          known[waits[1]] = false
          waiting[#waiting + 1] = waits
        end
      end
      budget.looks = budget.looks - 1 - #dependents
      beyond = beyond + 1
    end
    for i, state in ipairs(states_of(r, waiting)) do
      known[waiting[i][1]] = state
    end
    for i = head, beyond - 1 do
      local step, page, end_of_it, caused, text = queue[i].step, queue[i].page, queue[i].ended, nil, nil
      local size = inputs.size(end_of_it)
      local dependents = decoded_of(texts[names[i - head + 1]])
      for _, waits in ipairs(dependents) do
        local dependent, wants = waits[1], waits[2]
        if known[dependent] == '2' or is_cancelled[dependent] then
          -- It has ended.
        elseif end_of_it.how == 'done' or wants == 'o' then
          if not counts[dependent] then
            met[#met + 1] = dependent
          end
          counts[dependent] = (counts[dependent] or 0) + 1
          if size > 0 then
            sizes = sizes or {}
            sizes[dependent] = (sizes[dependent] or 0) + size
          end
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
              listed.add(r, ':fails', RESULT)
            else
              open = open + 1
            end
          end
          is_cancelled[dependent] = true
          if dependent ~= RESULT then
            queue[#queue + 1] = { step = dependent, page = 0, ended = caused }
          end
        end
      end
      if #dependents >= NEXT.at_once then
        queue[#queue + 1] = { step = step, page = page + 1, ended = end_of_it }
      end
    end
    head = beyond
  end
  rules.spread_later(r, queue, head)
  if #cancelled > 0 then
    tell_run(r)
    local states, texts = {}, {}
    for i, step in ipairs(cancelled) do
      states[2 * i - 1], states[2 * i] = 's' .. step, '2'
      texts[2 * i - 1], texts[2 * i] = step, ends[i]
    end
    write_pairs(r.state, states)
    write_pairs(r.at .. ':ends', texts)
  end
  if open > 0 then
    r.open = redis.call('HINCRBY', r.at, 'open', -open)
  end
  local left = {}
  for _, step in ipairs(met) do
    if not is_cancelled[step] then
      left[#left + 1] = step
    end
  end
  return rules.meet(r, left, counts, sizes)
end

function rules.first_failure(r)
  local step = listed.of(r, ':fails', 1)[1]
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

function rules.is_undoing(r)
  return redis.call('HEXISTS', r.at, 'undoing') == 1 or redis.call('EXISTS', r.at .. ':undo') == 1
end

-- `step`: of which the message that undoes it has ended, however it did.
local function undone(r, step)
  if redis.call('HGET', r.at, 'undoing') == whole(step) then
    redis.call('HDEL', r.at, 'undoing')
    undo_next(r)
    if not OPEN[r.status] and not rules.is_undoing(r) then
      keep_for(r, redis.call('HGET', r.at, 'ttl'))
    end
  end
end

local function send_error(r)
  local on_error = r.status == 'FAILURE' and redis.call('HGET', r.at, 'on_error')
  if on_error and not send_message(r, cjson.decode(on_error), r.run .. '/error') then
    wake(r, 'error', now_ms() + TRY_AGAIN_MS)
  elseif on_error then
    redis.call('HDEL', r.at, 'told')
    redis.call('DEL', r.at .. ':told')
    redis.call('ZREM', r.due, r.run .. '/error') -- Of an earlier failure of a run that was retried.
  end
end

local function finish(r, status, reason)
  reason = reason or ''
  if status == 'FAILURE' and not r.is_damaged and inputs.tell_failures(r, true) then
    set_status(r, status, reason == '' and rules.first_failure(r) or reason)
    redis.call('HSET', r.at, 'closing', -1) -- As if it were closed: run_closing.lua goes on.
    wake(r, 'close', now_ms())
    return
  end
  local rest = redis.call('HMGET', r.at, 'result_template', 'heir', 'ttl', 'result_inputs')
  local now = whole(now_ms())
  local result = status == 'SUCCESS' and inputs.result(r, rest[1], rest[4], rest[2])
  if result then
    redis.call('HSET', r.at, 'result', result)
  elseif status ~= 'SUCCESS' and reason == '' then
    reason = rules.first_failure(r)
  end
  set_status(r, status, reason)
  redis.call('HSET', r.at, 'finished', now)
  redis.call('DEL', r.at .. ':signals', r.at .. ':ready', r.at .. ':held', r.at .. ':asking', r.at .. ':spread', r.at .. ':again')
  redis.call('HDEL', r.at, 'putting')
  redis.call('ZREM', r.due, r.run .. '/deadline', r.run .. '/more')
  if rest[2] then
    local heir = cjson.decode(rest[2])
    local record = '{' .. (heir.flow and '"flow":"' .. heir.flow .. '",' or '')
    record = record .. '"source":' .. cjson.encode(heir.source) .. ',"id":' .. cjson.encode(heir.id)
    if status == 'SUCCESS' then
      record = record .. ',"status":"done","value":' .. result .. '}'
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
  if status == 'SUCCESS' or not rules.is_undoing(r) then -- Else it is kept until the last step is undone.
    keep_for(r, rest[3])
  end
end

-- Gives a run that is not paused its status: it is held as long as a step waits to be retried.
local function continue(r)
  local held = listed.of(r, ':held', 1)[1]
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
  if r.status == 'RETRY' then
    return -- It goes on from there.
  elseif r.open <= 0 then
    if redis.call('EXISTS', r.at .. ':spread') == 0 then
      finish(r, redis.call('EXISTS', r.at .. ':fails') == 1 and 'FAILURE' or 'SUCCESS')
    end
  elseif #ready > 0 and is_sending(r) then
    if #ready > budget.sends then
      ready = { unpack(ready, 1, budget.sends) }
      wake(r, 'more', now_ms())
    end
    budget.sends = budget.sends - #ready
    send_all(r, ready)
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
    listed.add(r, ':held', step)
    if r.status == 'STARTED' then
      continue(r)
    end
    return true
  end
  record(r, step, state, ended, ended.how ~= 'done' and not is_taken)
  if ended.how == 'done' and redis.call('HEXISTS', r.at .. ':undoes', step) == 1 then
    redis.call('RPUSH', r.at .. ':undo', step)
  end
  go_on(r, spread(r, { { step = step, page = 0, ended = ended } }))
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
  local times, last_of, position, text_of = {}, {}, 0, {}
  local size_by, has_long = {}, false
  for first = 1, #numbers, CHUNK do
    local last = math.min(first + CHUNK - 1, #numbers)
    for _, text in ipairs(redis.call('HMGET', r.at .. ':next', unpack(numbers, first, last))) do
      position = position + 1
      text_of[position] = text
      if text then
        times[text] = (times[text] or 0) + 1
        last_of[text] = position
        if #returned[position] > inputs.SHORT then
          has_long = true
          size_by[text] = (size_by[text] or 0) + #returned[position]
        end
      end
    end
  end
  local ended, turn, dependents = {}, {}, {}
  local sizes = has_long and {}
  local rest_from = {} -- By texts: the page of dependents from which on they are left to the scripts to come.
  for text, count in pairs(times) do
    if budget.looks <= 0 or r.status == 'RETRY' then
      rest_from[text] = 0
    else
      local all = decoded_of(text)
      budget.looks = budget.looks - #all
      rest_from[text] = #all >= NEXT.at_once and 1 or nil
      for i, waits in ipairs(all) do
        local dependent = waits[1]
        if size_by[text] then
          sizes[dependent] = (sizes[dependent] or 0) + size_by[text]
        end
        if not ended[dependent] then
          dependents[#dependents + 1] = { dependent }
        end
        ended[dependent] = (ended[dependent] or 0) + count
        turn[dependent] = math.max(turn[dependent] or 0, last_of[text] * RESULT + i)
      end
    end
  end
  if next(rest_from) then
    local queue = {}
    for i, step in ipairs(numbers) do
      local page = text_of[i] and rest_from[text_of[i]]
      if page then
        queue[#queue + 1] = { step = tonumber(step), page = page }
      end
    end
    rules.spread_later(r, queue, 1)
  end
  -- In the order in which they lose their last need here.
  table.sort(dependents, function(a, b) return turn[a[1]] < turn[b[1]] end)
  local of_them, met = states_of(r, dependents), {}
  for i, waits in ipairs(dependents) do
    if of_them[i] ~= '2' then
      met[#met + 1] = waits[1]
    end
  end
  go_on(r, rules.meet(r, met, ended, sizes))
end
