-- How runs begin and grow: new ones, those in the place of a step, steps that are added to one. (A part: scripts begin with
-- the parts they need.)

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
  for number, text in pairs(new.templates or NONE) do
    redis.call('HSET', at .. ':templates', number, text)
  end
  write('HSET', at .. ':state', state)
  write('ZADD', at .. ':ready', ready)
  write('HSET', at .. ':next', waiting)
  write('HSET', at .. ':next', new.beyond or NONE)
  write('HSET', at .. ':undoes', new.undoes or NONE)
  write('HSET', at .. ':asks', new.asks or NONE)
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
  local page, dependents = 0, nil
  repeat
    dependents = decoded_of(redis.call('HGET', r.at .. ':next', next_of(new.step, page)))
    for _, waits in ipairs(dependents) do
      if waits[3] then
        gathering[#gathering + 1] = waits
      end
    end
    page = page + 1
  until #dependents < NEXT.at_once
  local is_member = {}
  for _, n in ipairs(new.members) do
    is_member[n] = true
  end
  local added = { first = first, steps = {}, needs = new.needs, next = {}, undoes = {} }
  for i, step in ipairs(new.steps) do
    added.steps[i] = numbered(step)
    local waits = new.next[i] ~= '' and cjson.decode(numbered(new.next[i])) or {}
    for _, one in ipairs(is_member[i - 1] and gathering or NONE) do
      table.insert(waits, one[2] == 'o' and 1 or #waits + 1, one) -- Those who take outcomes come first.
    end
    added.next[i] = #waits > 0 and cjson.encode(waits) or ''
  end
  for i, n in ipairs(new.undoes) do
    added.undoes[2 * i - 1], added.undoes[2 * i] = first + n, 1
  end
  add_steps(r.at, added)
  for i, state_of_it in ipairs(states_of(r, gathering)) do
    if state_of_it ~= '2' and r.status ~= 'RETRY' then
      redis.call('HINCRBY', r.state, 'n' .. gathering[i][1], #new.members)
    end
  end
  -- As text: to decode, and encode, all members of a large group takes a millisecond for each of those who add to it.
  local places = {}
  for i, n in ipairs(new.members) do
    places[i] = whole(first + n)
  end
  for _, group in ipairs(#places > 0 and groups or NONE) do
    local text = redis.call('HGET', r.at .. ':grown', group) or ''
    local before = string.sub(text, 1, 1) == '[' and string.sub(text, 1, -2) .. ',' or '['
    redis.call('HSET', r.at .. ':grown', group, before .. table.concat(places, ',') .. ']')
  end
  r.total = redis.call('HINCRBY', r.at, 'total', #new.steps)
  redis.call('HINCRBY', r.at, 'open', #new.steps)
  if r.status == 'RETRY' then
    retrying.count_again(r)
  end
  send_ready(r)
end

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

-- Deletes keys whose memory the server frees beside its other work: of 100,000 steps that takes half a second.
local function free(...)
  if type(redis.pcall('UNLINK', ...)) == 'table' then -- This user may not use it, or these are lives, which it may not write.
    redis.pcall('DEL', ...)
  end
end

-- Adds a page of the steps of a run that is about to be started, under keys that expire if it is not.
local function add_page(at, text, kept_for)
  add_steps(at, cjson.decode(text))
  for _, part in ipairs(PAGED) do
    redis.call('PEXPIRE', at .. part, kept_for)
  end
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
    for _, part in ipairs(new.pages and PAGED or NONE) do -- They were sent in vain.
      free(at .. ':' .. new.pages .. part)
    end
    return false
  end
  local is_whole = not new.pages or redis.call('EXISTS', at .. ':' .. new.pages .. ':steps') == 1
  local now = now_ms()
  if not KEYS.tag then
    redis.call('SADD', 'actorwork:flows', new.home)
  elseif redis.call('EXISTS', 'actorwork:{' .. new.home .. '}:flows') == 0 then
    away.act('actorwork:flows', 'home', new.home)
  end
  redis.call('ZADD', 'actorwork:{' .. new.home .. '}:flows', whole(now), new.run)
  redis.call('HSET', at, 'status', 'STARTED', 'reason', '', 'title', new.title, 'total', new.total, 'open', new.total,
    'holds', new.holds, 'secret', new.secret, 'ttl', whole(new.ttl), 'format', new.format or '', 'started', whole(now),
    'result_template', new.result)
  for _, name in ipairs({ 'on_error', 'heir', 'result_inputs' }) do
    if new[name] then
      redis.call('HSET', at, name, new[name])
    end
  end
  if new.pages then -- They were sent before, because they are many.
    for _, part in ipairs(PAGED) do
      if redis.call('EXISTS', at .. ':' .. new.pages .. part) == 1 then
        redis.call('RENAME', at .. ':' .. new.pages .. part, at .. part)
        redis.call('PERSIST', at .. part)
      end
    end
  else
    add_steps(at, new)
  end
  redis.call('HSET', at .. ':state', 'n' .. RESULT, new.needs_of_result)
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
  if not is_whole then
    finish(r, 'FAILURE', 'its steps were sent too long before it was started, and were not kept')
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
