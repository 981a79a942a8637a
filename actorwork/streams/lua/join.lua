-- Joins the steps that a script has ended in their runs. (A part: scripts begin with the parts they need.)
--
-- What concerns runs is in these parts, each of which needs those before it:
--
--   run_book       a run as it is stored: its keys, and how they are read and written
--   run_messages   the messages of its steps: templates, filled in with what other steps returned
--   run_rules      what follows from the end of a step, as in policy/runs/rules.py
--   run_closing    how a run ends before its steps have
--   run_retrying   how what has failed in it is put back
--   run_starting   how runs begin and grow
--   join           what follows from all that has ended in a script, and from the time

-- Changes a run. If that fails, its keys are not what this script has made them (they were written or deleted by hand): then the
-- run ends, and what else is settled in this script is not lost with it.
local function guarded(r, change, ...)
  local good, problem = pcall(change, ...)
  if good then
    return
  end
  if OPEN[r.status] then
    r.is_damaged = true
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
    -- A step whose life the run keeps is open: of these, as nearly all are, nothing else is read.
    local names, keeps, rest = {}, {}, {}
    for i, step in ipairs(steps) do
      names[i] = 'l' .. step
    end
    for first = 1, #names, CHUNK do
      for n, kept in ipairs(redis.call('HMGET', r.state, unpack(names, first, math.min(first + CHUNK - 1, #names)))) do
        local i = first + n - 1
        keeps[i] = kept == '' and page.lives[i]
        if not keeps[i] then
          rest[#rest + 1] = i
        end
      end
    end
    local ends, is_held = {}, false
    for first = 1, #rest, CHUNK / 2 do
      local last, asked = math.min(first + CHUNK / 2 - 1, #rest), {}
      for n = first, last do
        asked[#asked + 1] = 's' .. steps[rest[n]]
        asked[#asked + 1] = 'a' .. steps[rest[n]]
      end
      local known = redis.call('HMGET', r.state, unpack(asked))
      for n = first, last do
        local i, state, attempt = rest[n], known[2 * (n - first) + 1], known[2 * (n - first) + 2]
        if (state == '1' or state == '3')
          and (not attempt and page.lives[i] or id_of(r, steps[i], attempt) == ids[i]) then
          ends[i] = true
          is_held = is_held or state == '3'
        elseif page.lives[i] then
          lives.finish_done(page.lives[i], ids[i], page.claims[i])
        end
      end
    end
    local numbers, returned, kept = {}, {}, {}
    local is_joined = not is_held and OPEN[r.status]
    for i, step in ipairs(steps) do
      if keeps[i] or ends[i] then
        local n, life = #numbers + 1, page.lives[i] -- False if it has ended already.
        numbers[n], returned[n] = step, page.returned[i]
        if is_joined and keeps[i] then
          kept[n] = lives.finish_kept(life, ids[i])
        elseif life then
          lives.finish_done(life, ids[i], page.claims[i])
        end
      end
    end
    is_joined = is_joined and #numbers > 0
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

-- Does what earlier scripts have left of a run; returns whether more of it is left, but what sources cannot take.
local function do_more(r)
  -- Tells dependents of steps that have ended before (`spread_later`).
  local function spread_more()
    local most = math.max(budget.looks, 0)
    local found = most > 0 and redis.call('ZRANGE', r.at .. ':spread', 0, most - 1, 'WITHSCORES') or NONE
    if #found == 0 then
      return
    end
    local steps, queue = {}, {}
    for i = 1, #found, 2 do
      steps[#steps + 1] = found[i]
    end
    local ends = fetch(r.at .. ':ends', steps, {})
    for i, step in ipairs(steps) do
      local ended = ends[step] and cjson.decode(ends[step])
        or { how = 'done', size = #(redis.call('HGET', r.at .. ':values', step) or '') }
      queue[i] = { step = tonumber(step), page = found[2 * i] - step * NEXT.most_pages, ended = ended }
    end
    redis.call('ZREM', r.at .. ':spread', unpack(steps))
    r.open = tonumber(redis.call('HGET', r.at, 'open'))
    go_on(r, spread(r, queue))
    if #steps == most then -- There may be more.
      wake(r, 'more', now_ms())
    end
  end

  if not OPEN[r.status] then
    return redis.call('HEXISTS', r.at, 'closing') == 1 and close_more(r)
  elseif r.status == 'RETRY' then
    retrying.more(r)
  else
    spread_more()
    send_ready(r)
  end
  return r.status == 'RETRY' or redis.call('EXISTS', r.at .. ':spread') == 1
    or is_sending(r) and #redis.call('ZRANGEBYSCORE', r.ready, '-inf', PARKED - 1, 'LIMIT', 0, 1) > 0
end

-- Does what is due in a run: of a step whose number it is, or what it says.
local function do_due(r, what, now)
  if what == 'deadline' then
    close_run(r, 'FAILURE', 'deadline')
  elseif what == 'more' then
    do_more(r)
  elseif what == 'close' then
    if redis.call('HEXISTS', r.at, 'closing') == 1 then -- Else the client that gave the order has done it.
      close_more(r)
    end
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
      listed.drop(r, ':asking', step)
      end_step(r, step, state, { how = 'expired', failure = failure })
    end
  end
end

-- Does what is due in the runs of a home; returns ms until the next, -1 for none.
local function promote_runs(home)
  local due = 'actorwork:{' .. home .. '}:flows:due'
  local now = now_ms()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', 0, 100)) do
    if budget.looks <= 0 or budget.sends <= 0 or budget.closes <= 0 then
      break -- In the next script.
    end
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
