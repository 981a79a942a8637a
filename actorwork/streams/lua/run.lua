-- Starts a run of a workflow, or changes one.
--
-- KEYS  the run
-- ARGV  what to do; for 'start' the run as JSON (streams/runs.py), else its home and id, then:
--         'cancel'  the reason
--         'asks'    the name of a signal: returns its step as JSON; '' if the run takes no such signal
--         'signal'  the name of the signal, its value as JSON
--         'retry'   the numbers of the steps that are meant, as JSON; nothing for all that have not succeeded
--         'info'    how many failures at most, and the fields of the run that are wanted
--         'pause', 'resume', 'more', 'forget'  nothing
--
-- Also 'page', before a large run is started: where, and steps as JSON.
--
-- Returns 1 if this changed something, else 0; for 'more' 0 if nothing is to be done but what sources cannot take. Sent again
-- after a lost reply it changes nothing more.

local what = ARGV[1]
if what == 'page' then
  -- Steps of a run that is about to be started, under keys that expire if it is not.
  local page = cjson.decode(ARGV[3])
  add_steps(ARGV[2], page)
  for _, part in ipairs(PAGED) do
    redis.call('PEXPIRE', ARGV[2] .. part, PAGES_KEPT_MS)
  end
  return 1
end
-- Deletes keys whose memory the server frees beside its other work: of 100,000 steps that takes half a second.
local function free(...)
  if type(redis.pcall('UNLINK', ...)) == 'table' then -- This user may not use it, or these are lives, which it may not write.
    redis.pcall('DEL', ...)
  end
end

if what == 'start' then
  local new = cjson.decode(ARGV[2])
  local is_new = start_run(new)
  for _, part in ipairs(not is_new and new.pages and PAGED or {}) do -- They were sent in vain.
    free('actorwork:{' .. new.home .. '}:flow:' .. new.run .. ':' .. new.pages .. part)
  end
  join_all()
  return is_new and 1 or 0
end

local r = run_at(ARGV[2], ARGV[3])
if not r then
  return what == 'info' and {} or what == 'asks' and '' or 0
end
if what == 'asks' then
  local step = OPEN[r.status] and redis.call('HGET', r.at .. ':asks', ARGV[4])
  return step and state_of(r, step) ~= 2 and redis.call('HGET', r.at .. ':steps', step) or ''
end

if what == 'info' then
  local failures, asked, most = {}, {}, tonumber(ARGV[4])
  pcall(function() -- Its keys may be damaged (`guarded`): then its reason says so.
    for _, suffix in ipairs({ ':fails', ':held' }) do
      for _, step in ipairs(numbers_in(r, suffix)) do
        if #failures < most and step ~= RESULT then
          failures[#failures + 1] = { name_of(r, step), redis.call('HGET', r.at .. ':ends', step) }
        end
      end
    end
    for _, step in ipairs(numbers_in(r, ':asking')) do
      asked[#asked + 1] = name_of(r, step)
    end
  end)
  -- Not all of the hash: the template of the result has a place for each member, and who waits asks again and again.
  return { redis.call('HMGET', r.at, unpack(ARGV, 5)), failures, asked }
end

local function each_page(steps, act)
  for first = 1, #steps, CHUNK / 4 do
    act({ unpack(steps, first, math.min(first + CHUNK / 4 - 1, #steps)) })
  end
end

-- Forgets how these steps have ended, and counts anew what each step lacks. However many there are, few commands are called:
-- each reads or writes many.
local function reopen(again)
  each_page(again, function(steps)
    local told, attempts, next_attempts = {}, {}, {}
    for i, step in ipairs(steps) do
      for _, name in ipairs({ 's', 'p', 'c', 'l' }) do
        told[#told + 1] = name .. step
      end
      attempts[i] = 'a' .. step
    end
    redis.call('SREM', r.at .. ':fails', unpack(steps))
    redis.call('SREM', r.at .. ':held', unpack(steps))
    redis.call('HDEL', r.at .. ':ends', unpack(steps))
    redis.call('HDEL', r.state, unpack(told))
    for i, attempt in ipairs(redis.call('HMGET', r.state, unpack(attempts))) do
      next_attempts[2 * i - 1], next_attempts[2 * i] = attempts[i], (tonumber(attempt or '0') + 1)
    end
    redis.call('HSET', r.state, unpack(next_attempts))
  end)
  local open, needs, waiting, all = 0, {}, {}, {}
  for step = 0, r.total - 1 do
    all[step + 1] = step
  end
  each_page(all, function(steps)
    local names, lacks = {}, {}
    for i, step in ipairs(steps) do
      names[i], lacks[i] = 's' .. step, 'n' .. step
    end
    redis.call('HDEL', r.state, unpack(lacks))
    local states, waiters = redis.call('HMGET', r.state, unpack(names)), redis.call('HMGET', r.at .. ':next', unpack(steps))
    for i, step in ipairs(steps) do
      if states[i] ~= '2' then
        open = open + 1
        for _, waits in ipairs(decoded_of(waiters[i])) do
          needs[waits[1]] = (needs[waits[1]] or 0) + 1
        end
      end
      if not states[i] then
        waiting[#waiting + 1] = step
      end
    end
  end)
  redis.call('HDEL', r.state, 'n' .. RESULT)
  local lacking, ready = {}, {}
  for step, count in pairs(needs) do
    lacking[#lacking + 1] = 'n' .. whole(step)
    lacking[#lacking + 1] = count
  end
  write_pairs(r.state, lacking)
  for _, step in ipairs(waiting) do
    if not needs[step] then
      ready[#ready + 1] = step
    end
  end
  note_ready(r, ready)
  redis.call('HSET', r.at, 'open', open)
end

-- Which steps run again if these numbers do, as `_with_what_follows` in policy/runs/rules.py; nil if one of them cannot.
local function with_what_follows(numbers)
  local again, todo = {}, {}
  for _, step in ipairs(numbers) do
    if redis.call('HEXISTS', r.at .. ':ends', step) == 0 then
      return nil
    end
    again[step] = true
    todo[#todo + 1] = step
  end
  while #todo > 0 do
    for _, waits in ipairs(dependents_of(r, table.remove(todo))) do
      local text = not again[waits[1]] and redis.call('HGET', r.at .. ':ends', waits[1])
      if text and cjson.decode(text).how == 'cancelled' then
        again[waits[1]] = true
        todo[#todo + 1] = waits[1]
      end
    end
  end
  for _, text in ipairs(redis.call('HKEYS', r.at .. ':ends')) do
    local step = tonumber(text)
    if not again[step] and state_of(r, step) == 2 then
      todo[#todo + 1] = step
    end
  end
  while #todo > 0 do
    for _, waits in ipairs(dependents_of(r, table.remove(todo))) do
      if again[waits[1]] and waits[2] == 'r' then
        again[waits[1]] = nil
        todo[#todo + 1] = waits[1]
      end
    end
  end
  local found = {}
  for _, step in ipairs(numbers) do
    if not again[step] then
      return nil
    end
  end
  for step in pairs(again) do
    found[#found + 1] = whole(step)
  end
  return found
end

local done = false
if what == 'cancel' then
  done = close_run(r, 'CANCELLED', ARGV[4])
elseif what == 'pause' then
  if r.status == 'STARTED' then
    set_status(r, 'PAUSED')
    done = true
  end
elseif what == 'resume' then
  if r.status == 'PAUSED' then
    continue(r)
    send_ready(r)
    done = true
  end
elseif what == 'more' then
  if redis.call('HEXISTS', r.at, 'closing') == 1 then
    local is_more = close_more(r)
    join_all()
    return is_more and 1 or 0
  end
  send_ready(r)
  return is_sending(r) and #redis.call('ZRANGEBYSCORE', r.ready, '-inf', PARKED - 1, 'LIMIT', 0, 1) or 0
elseif what == 'signal' then
  local step = OPEN[r.status] and tonumber(redis.call('HGET', r.at .. ':asks', ARGV[4]) or '')
  if step then
    local state = state_of(r, step)
    if state == 1 then
      redis.call('ZREM', r.due, r.run .. '/' .. step)
      redis.call('SREM', r.at .. ':asking', step)
      done = end_step(r, step, state, { how = 'done', value = ARGV[5] })
    elseif state == 0 or state == 3 then
      done = redis.call('HSETNX', r.at .. ':signals', ARGV[4], ARGV[5]) == 1
    end
  end
elseif what == 'retry' then
  local again
  if r.status == 'HELD' or r.status == 'FAILURE' and redis.call('HEXISTS', r.at, 'closing') == 0 then
    again = not ARGV[4] and redis.call('HKEYS', r.at .. ':ends') or ARGV[4] and with_what_follows(cjson.decode(ARGV[4]))
  end
  if again and (#again > 0 or not ARGV[4]) then
    reopen(again)
    redis.call('HDEL', r.at, 'finished', 'result')
    redis.call('PERSIST', r.at)
    if KEYS.tag then
      away.act('actorwork:flow:' .. r.run, 'index', 'set', r.home)
    else
      redis.call('PERSIST', 'actorwork:flow:' .. r.run)
    end
    for _, suffix in ipairs(SUFFIXES) do
      redis.call('PERSIST', r.at .. suffix)
    end
    set_status(r, 'STARTED')
    continue(r) -- Of several held steps some may be left.
    send_ready(r)
    done = true
  end
elseif what == 'forget' then
  if not OPEN[r.status] and redis.call('HEXISTS', r.at, 'closing') == 0 then
    redis.call('DEL', r.at)
    if not KEYS.tag then -- On a cluster, the caller does so: it is in another slot.
      redis.call('DEL', 'actorwork:flow:' .. r.run)
    end
    for _, suffix in ipairs(SUFFIXES) do
      free(r.at .. suffix)
    end
    local lives, last = 'actorwork:{' .. r.home .. '}:state:' .. r.run .. '/', r.total - 1
    for first = 0, last, 500 do -- Lives that are not in the run: a later one under its id has its own.
      local gone = {}
      for step = first, math.min(first + 499, last) do
        gone[#gone + 1] = lives .. whole(step)
      end
      free(unpack(gone))
    end
    redis.call('ZREM', 'actorwork:{' .. r.home .. '}:flows', r.run)
    for _, what in ipairs({ 'gone', 'more', 'close', 'undo', 'error' }) do
      redis.call('ZREM', r.due, r.run .. '/' .. what)
    end
    done = true
  end
end
join_all()
return done and 1 or 0
